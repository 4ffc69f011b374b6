"""Other rooms import from `foreprune.graph`, never from its rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import foreprune
import foreprune.graph

PACKAGE = Path(foreprune.__file__).parent


def imported(path: Path) -> set[str]:
    """Modules named in the imports of a file, at any depth, also for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_other_rooms_see_the_face_only() -> None:
    rooms = tuple(f"foreprune.graph.{path.stem}" for path in (PACKAGE / "graph").iterdir() if path.stem[0] not in "_.")
    assert len(rooms) == 4
    files = [path for path in PACKAGE.rglob("*.py") if "graph" not in path.relative_to(PACKAGE).parts[:1]]
    users = 0
    for path in files:
        names = imported(path)
        inner = sorted(name for name in names if name.startswith(rooms))
        assert not inner, f"{path.relative_to(PACKAGE)} imports {inner[0]}; import it from foreprune.graph"
        users += "foreprune.graph" in names
    assert users > 5


def test_the_face_has_what_it_names() -> None:
    assert sorted(foreprune.graph.__all__) == foreprune.graph.__all__
    for name in foreprune.graph.__all__:
        assert hasattr(foreprune.graph, name)


def test_rooms_of_the_graph_import_downwards() -> None:
    """The vocabulary knows nobody, sums know nobody but it, and the seam is the only way to the replay."""
    for path in (PACKAGE / "graph").rglob("*.py"):
        room = path.relative_to(PACKAGE / "graph").parts[0]
        inner = {name.split(".")[2] for name in imported(path) if name.startswith("foreprune.graph.")}
        allowed = {
            "vocabulary.py": set(),
            "sums": {"sums", "vocabulary", "replay"} if path.name == "paths.py" else {"sums", "vocabulary"},
            "units": {"sums", "units", "vocabulary"},
            "replay": {"sums", "replay"},
            "__init__.py": {"sums", "units"},
        }[room]
        assert inner <= allowed, path
