"""The rules of the house, read off the source: who may import whom, names, lengths, docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import foreprune

PACKAGE = Path(foreprune.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# A room may import itself and the rooms before it.
ROOMS = (
    "core",
    "graph",
    "methods",
    "api",
    "ablations",
    "analysis",
    "zoo",
    "training",
    "records",
    "procedures",
    "experiments",
    "papers",
    "runner",
    "report",
    "cli",
)
TORCH_FREE = (
    *("foreprune", "foreprune.training.recipes", "foreprune.records"),
    *("foreprune.procedures", "foreprune.experiments", "foreprune.papers"),
)
PUBLIC_NAMES = 25
LINES = 420


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def is_for_types_only(node: ast.AST) -> bool:
    test = getattr(node, "test", None)
    name = getattr(test, "id", getattr(test, "attr", None))
    return isinstance(node, ast.If) and name == "TYPE_CHECKING"


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, inside functions too, without the bodies of `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if is_for_types_only(node):
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield other
                yield from runtime_nodes(other)
        else:
            yield from runtime_nodes(node)


def imports(path: Path, *, at_load_only: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports (`from a import b` gives a and a.b)."""
    tree = ast.parse(path.read_text())
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    lazy: set[int] = set()
    if at_load_only:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                lazy |= {id(inner) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in runtime_nodes(tree):
        if id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def modules_of_the_house(names: set[str]) -> set[str]:
    known = {module_of(path) for path in FILES}
    return {name for name in names if name in known}


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_rooms_import_only_from_rooms_before_them(path: Path) -> None:
    room = room_of(module_of(path))
    for name in sorted(modules_of_the_house(imports(path))):
        other = room_of(name)
        if not other:
            continue  # the package itself holds only a version and names that are looked up late
        assert room, f"{path.name} imports {name} when it is imported; look it up at first use instead"
        assert ROOMS.index(other) <= ROOMS.index(room), f"{room} must not import {name}"


def test_every_room_has_its_place() -> None:
    rooms = {room_of(module_of(path)) for path in FILES} - {"", "__main__"}
    assert rooms <= set(ROOMS), f"name the place of {rooms - set(ROOMS)} in ROOMS"


def test_the_import_parser_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would prove nothing."""
    house = tmp_path / "foreprune"
    (house / "core").mkdir(parents=True)
    source = (
        "from typing import TYPE_CHECKING\nimport typing\n"
        "if TYPE_CHECKING:\n    from foreprune.report import page\n"
        "if typing.TYPE_CHECKING:\n    import foreprune.zoo\nelse:\n    import foreprune.api\n"
        "def late():\n    from foreprune.cli import main\n    from .masks import Masks\n    from ..graph import paths\n"
    )
    (house / "core" / "odd.py").write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", house)
    found = imports(house / "core" / "odd.py")
    assert {"foreprune.api", "foreprune.cli", "foreprune.cli.main", "foreprune.core.masks", "foreprune.graph"} <= found
    assert not any(name.startswith(("foreprune.report", "foreprune.zoo")) for name in found)
    assert not any("cli" in name for name in imports(house / "core" / "odd.py", at_load_only=True))


def test_reports_never_import_torch() -> None:
    """Neither by themselves nor by anything they import, whenever that happens."""
    paths = {module_of(path): path for path in FILES}
    start = [name for name in paths if room_of(name) == "report"]
    assert start
    seen: set[str] = set()
    while start:
        name = start.pop()
        if name in seen:
            continue
        seen.add(name)
        # what a report's own functions import counts; of other rooms' functions only what it would call could matter
        names = imports(paths[name], at_load_only=room_of(name) != "report")
        assert not any(found == "torch" or found.startswith("torch.") for found in names), f"{name} imports torch"
        start += modules_of_the_house(names)


def test_these_modules_load_without_torch() -> None:
    reports = [module_of(path) for path in FILES if room_of(module_of(path)) == "report"]
    program = (
        "import importlib, sys\n"
        f"for name in {[*TORCH_FREE, *reports]!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_files_are_short_and_have_names_that_say_something(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES
    assert not {"utils", "util", "helpers", "helper", "common", "misc"} & set(module_of(path).split("."))
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Utils")), node.name


def test_at_most_25_public_names() -> None:
    assert len(foreprune.__all__) <= PUBLIC_NAMES
    assert foreprune.__all__ == sorted(foreprune.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_public_functions_and_classes_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), "the file has no docstring"
    for node in tree.body:
        overload = isinstance(node, ast.FunctionDef) and any(
            ast.unparse(d).endswith("overload") for d in node.decorator_list
        )
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and not overload:
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_everything_public_is_documented_with_its_methods() -> None:
    for name in foreprune.__all__:
        value = getattr(foreprune, name)
        if inspect.isclass(value) and value.__module__.startswith("foreprune"):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    assert inspect.getdoc(member), f"{name}.{attribute}"
        elif not inspect.ismodule(value):
            assert inspect.getdoc(value), name


def test_extras_are_imported_late() -> None:
    """`pip install foreprune` alone must be able to import every module."""
    extras = {
        "matplotlib",
        "pandas",
        "scipy",
        "jinja2",
        "plotly",
        "sklearn",
        "pyarrow",
        "PIL",
        "lightning",
        "transformers",
        "ray",
    }
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path, at_load_only=True)}
        assert not roots & extras, f"{module_of(path)} imports {roots & extras} when it is loaded"


def test_nothing_prints_or_unpickles_but_the_command_line() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), module_of(path)
                assert node.func.id != "print" or room_of(module_of(path)) == "cli", module_of(path)


def test_every_module_can_be_imported() -> None:
    for path in FILES:
        if path.name != "__main__.py":
            importlib.import_module(module_of(path))
