"""The panel of overlap: how far the masks of two methods agree, and how far they would by chance.

Masks are read with NumPy from `<run>/masks.safetensors` beside the records (`foreprune.core.masks` writes them): one
bit per weight. A file is used only if its layers keep as many weights as the record says.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreprune.records import LayerRecord, Record
from foreprune.report.charts import Heatmap, Panel, View, panel
from foreprune.report.colors import DENSE
from foreprune.report.labels import printable
from foreprune.report.measures import density_label
from foreprune.report.sections import Line, Section

if TYPE_CHECKING:
    import numpy as np

    Packed = dict[str, np.ndarray[Any, np.dtype[np.uint8]]]

MASKS = "masks.safetensors"
FORMAT = "foreprune-masks/1"
MOST_BYTES = 2**31  # of packed masks compared with each other in one section: a few seconds
MOST_METHODS = 16
_MOST_NOTES = 5
_DRAWN = 3  # densities in the image files, which would be taller than a page with all of them


def read_packed(path: Path, record: Record) -> Packed:
    """The masks of one run, packed eight weights to a byte, by layer.

    Raises:
        ValueError: it is no mask file, damaged, or of another run than `record`.
        OSError: it cannot be opened.
    """
    from safetensors import SafetensorError, safe_open

    expected = {layer.name: layer for layer in record.layers}
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"not a mask file of format {FORMAT!r}")
            names = set(file.keys())
            if names != expected.keys():
                raise ValueError(f"masks of other layers than the record's: {sorted(names ^ expected.keys())[0]!r}")
            if any(file.get_slice(name).get_dtype() != "U8" for name in names):
                raise ValueError("tensors that are not packed bits")
            shapes = json.loads(header.get("shapes", "{}"))
            packed = {name: file.get_tensor(name) for name in expected}
    except SafetensorError as error:
        raise ValueError(f"damaged or not a safetensors file ({error})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its list of shapes is unreadable ({error})") from None
    for name, layer in expected.items():
        if shapes.get(name) != list(layer.shape):
            raise ValueError(f"{name!r} has another shape than in the record")
        bits = packed[name]
        if bits.ndim != 1 or bits.size != (math.prod(layer.shape) + 7) // 8:
            raise ValueError(f"{name!r} holds {bits.size} bytes for {math.prod(layer.shape)} weights")
        kept = _ones(bits)
        if kept != layer.kept:
            raise ValueError(f"{name!r} keeps {kept} weights, {layer.kept} in the record")
    return packed


def both_kept(first: Packed, second: Packed) -> dict[str, int]:
    """Layer -> weights that both masks keep."""
    return {name: _ones(bits & second[name]) for name, bits in first.items()}


def _ones(bits: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    import numpy as np

    if hasattr(np, "bitwise_count"):  # NumPy 2
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    return int(np.unpackbits(bits).sum(dtype=np.int64))


def jaccard(
    first: Sequence[LayerRecord], second: Sequence[LayerRecord], both: Mapping[str, int]
) -> tuple[float, float]:
    """Jaccard index (kept by both over kept by either), and what independent masks with these layer counts would have.

    By chance both masks keep a * b / total weights of a layer on average, if they keep a and b of it; the second number
    is the ratio of the means of both counts. 1 where neither keeps anything.
    """
    theirs = {layer.name: layer.kept for layer in second}
    kept = sum(layer.kept for layer in first) + sum(theirs.values())
    shared = sum(both.values())
    chance = sum(layer.kept * theirs[layer.name] / layer.total for layer in first if layer.total)
    return _ratio(shared, kept - shared), _ratio(chance, kept - chance)


def _ratio(both: float, either: float) -> float:
    return both / either if either else 1.0


@panel("mask-overlap")
def mask_overlap(section: Section) -> Panel | None:
    """Jaccard index of every two methods' masks, mean over seeds, beside its value for independent masks."""
    if section.runs is None:
        return None
    lines = [line for line in section.lines() if line.method != DENSE]
    notes = []
    if len(lines) > MOST_METHODS:
        notes.append(f"Only the first {MOST_METHODS} of {len(lines)} methods are compared.")
        lines = lines[:MOST_METHODS]
    total = max((record.total or 0 for record in section.records), default=0)
    pairs = len(lines) * (len(lines) + 1) // 2 * len(section.densities())
    seeds = sorted({record.experiment.seed for record in section.records})
    affordable = int(MOST_BYTES / max(1, pairs * total / 8))
    if affordable < len(seeds):
        notes.append(
            f"The masks of {affordable} of {len(seeds)} seeds were compared, to bound the time: at most "
            f"{MOST_BYTES / 2**30:g} GiB of packed masks per section."
        )
        seeds = seeds[:affordable]
    problems: dict[str, str] = {}
    views = []
    for density in section.densities():
        charts = _heatmaps(section, lines, density, seeds, problems)
        if charts:
            views.append(View(label=density_label(density), charts=charts))
    step = max(1, (len(views) - 1) // (_DRAWN - 1))
    drawn = {len(views) - 1 - step * at for at in range(_DRAWN)}
    views = [replace(view, secondary=at not in drawn) for at, view in enumerate(views)]
    shown = [f"{printable(name)}: {printable(reason)}" for name, reason in list(problems.items())[:_MOST_NOTES]]
    if problems:
        more = f" and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        notes.append(f"Masks that could not be used: {'; '.join(shown)}{more}.")
    if not views and not notes:
        return None
    return Panel(
        name="mask-overlap",
        title="Overlap between the methods' masks",
        description=(
            "For every two methods the Jaccard index of their masks of the same seed: weights kept by both over "
            "weights kept by either, 1 for equal masks, mean over seeds. Beside it the value that masks with the same "
            "number of weights in each layer would have if they were independent: only what exceeds it is agreement "
            "on weights."
        ),
        views=tuple(views),
        notes=tuple(notes),
    )


def _heatmaps(
    section: Section, lines: Sequence[Line], density: float, seeds: Sequence[int], problems: dict[str, str]
) -> tuple[Heatmap, ...]:
    """The measured and the expected matrix of one density; nothing if fewer than two methods have masks."""
    measured: dict[tuple[int, int], list[float]] = {}
    expected: dict[tuple[int, int], list[float]] = {}
    for seed in seeds:
        masks: dict[int, tuple[Packed, Record]] = {}
        for at, line in enumerate(lines):
            for record in section.finished(label=line.label, density=density):
                if record.experiment.seed == seed and record.layers:
                    packed = _read(section, record, problems)
                    if packed is not None:
                        masks[at] = (packed, record)
        for one, other in itertools.combinations_with_replacement(masks, 2):
            (first, record), (second, beside) = masks[one], masks[other]
            if {layer.name: layer.shape for layer in record.layers} == {
                each.name: each.shape for each in beside.layers
            }:
                found = jaccard(record.layers, beside.layers, both_kept(first, second))
                measured.setdefault((one, other), []).append(found[0])
                expected.setdefault((one, other), []).append(found[1])
    used = sorted({at for pair in measured for at in pair})
    if len(used) < 2:
        return ()
    high = max(
        statistics.fmean(values[pair]) for values in (measured, expected) for pair in values if pair[0] != pair[1]
    )
    names = [lines[at].name for at in used]
    return tuple(
        _heatmap(title, names, [[values.get((min(a, b), max(a, b))) for b in used] for a in used], high)
        for title, values in (("measured", measured), ("by chance", expected))
    )


def _heatmap(title: str, names: Sequence[str], values: Sequence[Sequence[list[float] | None]], high: float) -> Heatmap:
    return Heatmap(
        title=title,
        names=tuple(names),
        values=tuple(tuple(None if cell is None else statistics.fmean(cell) for cell in row) for row in values),
        notes=tuple(
            tuple(
                "no masks of one seed"
                if cell is None
                else f"{names[at]} and {names[other]}, {title}: {statistics.fmean(cell):.4g}"
                + (f" ± {statistics.stdev(cell):.2g}" if len(cell) > 1 else "")
                + f", n = {len(cell)}"
                for other, cell in enumerate(row)
            )
            for at, row in enumerate(values)
        ),
        limit=high or 1.0,
    )


def _read(section: Section, record: Record, problems: dict[str, str]) -> Packed | None:
    """The run's masks, or `None`: without a word if there is no file, else with the reason in `problems`."""
    assert section.runs is not None
    path = section.runs / record.id / MASKS
    try:
        return read_packed(path, record) if path.exists() else None
    except (ValueError, OSError) as error:
        problems[f"{record.id}/{MASKS}"] = str(error)
        return None
