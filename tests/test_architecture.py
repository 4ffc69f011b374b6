"""The architecture, read off the source: who may import whom, names, spelling, lengths, docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import foreprune

PACKAGE = Path(foreprune.__file__).parent
TESTS = Path(__file__).parent
ROOT = TESTS.parent
FILES = sorted(PACKAGE.rglob("*.py"))
# A room may import itself and the rooms before it.
ROOMS = (
    "core",
    "graph",
    "methods",
    "sharded",
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
    "integrations",
    "cli",
)
TORCH_FREE_ROOMS = ("records", "papers", "report")
TORCH_FREE = (
    *("foreprune", "foreprune.core.fields", "foreprune.training.recipes", "foreprune.training.history"),
    *("foreprune.procedures", "foreprune.experiments"),
)
# who imports what the program alone needs, when it is loaded
PROGRAM_ONLY = {"rich": {"cli"}, "tyro": {"cli"}, "pydantic": {"records", "cli"}}
# tables for the terminal, which import rich when they are asked for
RICH_TABLES = {"foreprune.analysis.table", "foreprune.report.panels.structure", "foreprune.report.tables"}
# folders of tests that are about more than one room
ACROSS_ROOMS = {"contract", "docs", "oracles", "properties"}
PUBLIC_NAMES = 25
LINES = 420
BRITISH = re.compile(
    r"\w*(?:initial|normal|material|optim|serial|summar|organ|recogn|regular|general|parametr|quant|vector|factor|"
    r"character|maxim|minim|real|util|random|penal|standard|linear|binar|symmetr|visual|special|central|token|local)"
    r"is(?:e|ed|es|er|ers|ing|ation|ations|able)\b|"
    r"\w*(?:behaviour|colour|neighbour|favour|honour|artefact|catalogue|judgement|licence|whilst)\w*|"
    r"\b(?:centred?|centres|grey\w*|analysed?|analysing|programmes?|\w*(?:label|model|travel|cancel)l(?:ed|ing))\b",
    re.IGNORECASE,
)


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


def modules_among(names: set[str]) -> set[str]:
    known = {module_of(path) for path in FILES}
    return {name for name in names if name in known}


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_rooms_import_only_from_rooms_before_them(path: Path) -> None:
    room = room_of(module_of(path))
    for name in sorted(modules_among(imports(path))):
        other = room_of(name)
        if not other:
            continue  # the package itself holds only a version and names that are looked up late
        assert room, f"{path.name} imports {name} when it is imported; look it up at first use instead"
        assert ROOMS.index(other) <= ROOMS.index(room), f"{room} must not import {name}"


def test_every_room_has_its_place_and_something_in_it() -> None:
    rooms = {room_of(module_of(path)) for path in FILES} - {"", "__main__"}
    assert rooms == set(ROOMS)
    for folder in {PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__")}:
        assert any(path.suffix != ".pyc" for path in folder.rglob("*.*") if path.name != "__init__.py"), folder
    for path in FILES:
        if path.name != "__init__.py":
            assert len(ast.parse(path.read_text()).body) > 1, f"{path} is empty"


def test_tests_follow_the_tree_of_the_source() -> None:
    for folder in TESTS.rglob("*"):
        if folder.is_dir() and any(folder.glob("test_*.py")):
            place = folder.relative_to(TESTS)
            room = PACKAGE / place
            assert place.parts[0] in ACROSS_ROOMS or room.is_dir() or room.with_suffix(".py").exists(), folder


def test_the_import_parser_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would prove nothing."""
    package = tmp_path / "foreprune"
    (package / "core").mkdir(parents=True)
    source = (
        "from typing import TYPE_CHECKING\nimport typing\n"
        "if TYPE_CHECKING:\n    from foreprune.report import page\n"
        "if typing.TYPE_CHECKING:\n    import foreprune.zoo\nelse:\n    import foreprune.api\n"
        "def late():\n    from foreprune.cli import main\n    from .masks import Masks\n    from ..graph import paths\n"
    )
    (package / "core" / "odd.py").write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    found = imports(package / "core" / "odd.py")
    assert {"foreprune.api", "foreprune.cli", "foreprune.cli.main", "foreprune.core.masks", "foreprune.graph"} <= found
    assert not any(name.startswith(("foreprune.report", "foreprune.zoo")) for name in found)
    assert not any("cli" in name for name in imports(package / "core" / "odd.py", at_load_only=True))


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
        start += modules_among(names)


def test_these_modules_load_without_torch() -> None:
    reports = [module_of(path) for path in FILES if room_of(module_of(path)) in TORCH_FREE_ROOMS]
    program = (
        "import importlib, sys\n"
        f"for name in {[*TORCH_FREE, *reports]!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_names_say_something(path: Path) -> None:
    assert not {"utils", "util", "helpers", "helper", "common", "misc"} & set(module_of(path).split("."))
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Utils")), node.name


@pytest.mark.filterwarnings("default:.* longer than")
def test_long_files_are_worth_a_look() -> None:
    """A warning and no failure: files are split by concept, not by length."""
    long = [module_of(path) for path in FILES if len(path.read_text().splitlines()) > LINES]
    if long:
        warnings.warn(f"longer than {LINES} lines: {', '.join(long)}", stacklevel=1)


def repeated(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that occur more than once, and where."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in pairs:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_classes_share_a_name() -> None:
    classes = (
        (node.name, module_of(path))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    found = repeated(classes)
    assert not found


def test_no_two_files_share_a_name() -> None:
    found = repeated((path.name, module_of(path)) for path in FILES if path.name != "__init__.py")
    assert not found


def private_names(path: Path) -> set[str]:
    """Names with an underscore that a test takes from the package: imported, read as attributes, or patched by name."""
    tree = ast.parse(path.read_text())
    modules: dict[str, str] = {}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "foreprune":
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.partition(".")[0] == "foreprune"]
            modules |= {alias.asname or "foreprune": alias.name if alias.asname else "foreprune" for alias in names}
    found |= set(modules.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in modules:
                found.add(f"{modules[first]}.{rest}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("foreprune."):
            found.add(node.value)
    return {name for name in found if re.fullmatch(r"foreprune(\.\w+)*\._(?!_)\w+", name)}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_uses_private_names_of_another_room(path: Path) -> None:
    room = path.relative_to(TESTS).parts[0]
    others = {name for name in private_names(path) if room_of(name) != room}
    assert not others


def test_the_search_for_private_names_sees_what_it_must(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    source = tmp_path / "odd.py"
    source.write_text(
        "import foreprune.core.net\nfrom foreprune import api\nfrom foreprune.core.masks import _digest, Masks\n"
        "from foreprune.zoo import models as m\nimport other\n"
        "def late(monkeypatch):\n    from foreprune.cli import _late\n"
        "    monkeypatch.setattr('foreprune.core.attach._hooks', 3)\n    api._task(1)\n    m._builder.cache\n"
        "    foreprune.core.net._copy\n    other._x\n    Masks.__dict__\n    print('foreprune._a b')\n"
    )
    names = {
        "core.masks._digest",
        "cli._late",
        "core.attach._hooks",
        "api._task",
        "zoo.models._builder",
        "core.net._copy",
    }
    assert private_names(source) == {f"foreprune.{name}" for name in names}


def test_spelling_is_american() -> None:
    texts = [*FILES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py")]
    assert len(texts) > len(FILES)
    for path in texts:
        words = {word.lower() for word in BRITISH.findall(path.read_text())}
        if path.relative_to(ROOT).as_posix().startswith(("src/foreprune/ablations", "docs/ablations")):
            words.discard("reinitialise")  # the name of a random stream: another spelling would draw other weights
        assert not words, path


def test_british_spelling_is_recognized() -> None:
    text = "Initialising colours: centre, normalisation, unlabelled, modelled, greyscale, neighbouring, analysed."
    assert len(BRITISH.findall(text)) == 9
    assert not BRITISH.findall(
        "analysis analyses center precise otherwise wise premise optimism realism labeled exercise"
    )


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
        "accelerate",
        "ray",
    }
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path, at_load_only=True)}
        assert not roots & extras, f"{module_of(path)} imports {roots & extras} when it is loaded"


def test_the_libraries_of_the_program_stay_in_their_rooms() -> None:
    for path in FILES:
        module = module_of(path)
        now, ever = ({name.split(".")[0] for name in imports(path, at_load_only=lazy)} for lazy in (True, False))
        for library, rooms in PROGRAM_ONLY.items():
            if room_of(module) not in rooms:
                assert library not in now, f"{module} imports {library}"
                assert library not in ever or module in RICH_TABLES, f"{module} imports {library}"


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
