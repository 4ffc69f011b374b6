"""A folder of records turned into files: the page, the figures as images, the tables as Markdown and CSV."""

from __future__ import annotations

from pathlib import Path

from foreprune.core.atomic import atomic_write
from foreprune.records import RUNS, Records, frame, make_folder, read_records
from foreprune.report.extras import require
from foreprune.report.figures import image_files
from foreprune.report.page import page
from foreprune.report.panels import build_panels
from foreprune.report.sections import sections
from foreprune.report.significance import markdown_tests, significance_csv
from foreprune.report.tables import markdown_table


def write_report(folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the report of every record under `folder`, or in such a `records.csv`, and return the path of its page.

    Written under `out` (the same folder if not given): `report.html`, self-contained; `figures/<section>-<panel>.png`
    and `.svg`; `table.md`; `records.csv`, one row per run; `significance.csv`, one row per comparison. Everything is
    drawn before the first file is written, and each file is replaced whole, the page last.

    Raises:
        ValueError: `folder` holds no record that can be read.
        ImportError: matplotlib, pandas, SciPy, jinja2 or plotly is not installed.
        OSError: a folder is missing, or may not be read or written.
    """
    require("matplotlib", "jinja2", "plotly.offline", "scipy")
    folder = Path(folder)
    table = folder.is_file()
    out = (folder.parent if table else folder) if out is None else Path(out)
    found = read_records(folder)
    if not found.records:
        raise ValueError(_nothing_found(folder, found))
    files: dict[str, bytes] = {}
    runs = None if table else folder / RUNS if (folder / RUNS).is_dir() else folder
    drawn = [(section, build_panels(section)) for section in sections(found.records, runs=runs)]
    for section, panels in drawn:
        for panel in panels:
            if not panel.views:
                continue
            for kind, content in image_files(panel, heading=section.title).items():
                files[f"figures/{section.slug}-{panel.name}.{kind}"] = content
    tests = markdown_tests(found.records)
    files["table.md"] = (markdown_table(found.records) + (f"\n{tests}" if tests else "")).encode()
    files["significance.csv"] = significance_csv(section for section, _ in drawn).encode()
    # a table that was read holds numbers of curves and layers, which are not there to compute them again
    own = folder.read_bytes() if table else frame(found.records).to_csv(index=False, lineterminator="\n").encode()
    files["records.csv"] = own
    problems = [(path.relative_to(folder).as_posix(), reason) for path, reason in found.problems]
    files["report.html"] = page(found.records, problems=problems, drawn=drawn).encode()
    make_folder(out / "figures")
    for name, content in files.items():
        atomic_write(out / name, content)
    return out / "report.html"


def _nothing_found(folder: Path, found: Records) -> str:
    how = "make some with `foreprune compare` or `foreprune sweep`, and give their output folder"
    if not found.problems:
        return f"{folder} holds no records; {how}"
    path, reason = found.problems[0]
    return f"none of the {len(found.problems)} record(s) in {folder} can be read (the first, {path}: {reason}); {how}"
