"""The panel of overlap: how far the masks of two methods agree, and how far they would by chance.

Masks are read from `<run>/masks.safetensors` beside the records, one bit per weight. A file is used only if its layers
keep as many weights as the record says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foreprune.analysis.statistics import Spread, overlap_of_counts, spread
from foreprune.core.mask_files import Bits, read_bits
from foreprune.records.spec import Record
from foreprune.report.charts import Heatmap, Panel, View
from foreprune.report.colors import DENSE
from foreprune.report.labels import printable
from foreprune.report.measures import density_label, plus_minus
from foreprune.report.panels import panel
from foreprune.report.sections import Line, Section

MASKS = "masks.safetensors"
MOST_BYTES = 2**31  # of packed masks compared with each other in one section: a few seconds
MOST_METHODS = 16
_MOST_NOTES = 5
_DRAWN = 3  # densities in the image files, which would be taller than a page with all of them

Packed = Mapping[str, Bits]
Pairs = dict[tuple[int, int], list[float]]  # the places of two methods -> a number for each seed


def read_masks(path: Path, record: Record) -> Packed:
    """The masks of one run, packed eight weights to a byte, by layer.

    Raises:
        ValueError: it is no mask file, damaged, or of another run than `record`.
        OSError: it cannot be opened.
    """
    found = read_bits(path)
    expected = {layer.name: layer for layer in record.layers}
    if found.shapes.keys() != expected.keys():
        odd = sorted(found.shapes.keys() ^ expected.keys())[0]
        raise ValueError(f"masks of other layers than the record's: {odd!r}")
    for name, layer in expected.items():
        if found.shapes[name] != layer.shape:
            raise ValueError(f"{name!r} has another shape than in the record")
        kept = ones(found.bits[name])
        if kept != layer.kept:
            raise ValueError(f"{name!r} keeps {kept} weights, {layer.kept} in the record")
    return found.bits


def ones(bits: Bits) -> int:
    """How many bits are set."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    return int(np.unpackbits(bits).sum(dtype=np.int64))


def agreement(first: tuple[Packed, Record], second: tuple[Packed, Record]) -> tuple[float, float]:
    """Jaccard index of two masks of one network, and what independent masks with these layer counts would have."""
    one, other = ({layer.name: layer.kept for layer in record.layers} for _, record in (first, second))
    both = {name: ones(bits & second[0][name]) for name, bits in first[0].items()}
    total = overlap_of_counts(one, other, both, sizes={layer.name: layer.total for layer in first[1].layers}).total
    return total.jaccard, total.expected_jaccard


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
    shown = [f"{printable(name)}: {printable(reason)}" for name, reason in list(problems.items())[:_MOST_NOTES]]
    if problems:
        more = f" and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        notes.append(f"Masks that could not be used: {'; '.join(shown)}{more}.")
    return Panel(
        name="mask-overlap",
        title="Overlap between the methods' masks",
        description=(
            "For every two methods the Jaccard index of their masks of the same seed: weights kept by both over "
            "weights kept by either, 1 for equal masks, mean over seeds. Beside it the value that masks with the same "
            "number of weights in each layer would have if they were independent: only what exceeds it is agreement "
            "on weights."
        ),
        views=tuple(replace(view, secondary=at not in drawn) for at, view in enumerate(views)),
        notes=tuple(notes),
    )


def _heatmaps(
    section: Section, lines: Sequence[Line], density: float, seeds: Sequence[int], problems: dict[str, str]
) -> tuple[Heatmap, ...]:
    """The measured and the expected matrix of one density; nothing if fewer than two methods have masks."""
    measured, expected = Pairs(), Pairs()
    for seed in seeds:
        masks: dict[int, tuple[Packed, Record]] = {}
        for at, line in enumerate(lines):
            for record in section.finished(label=line.label, density=density):
                if record.experiment.seed == seed and record.layers:
                    packed = _read(section, record, problems)
                    if packed is not None:
                        masks[at] = (packed, record)
        for one, other in itertools.combinations_with_replacement(masks, 2):
            shapes = [{layer.name: layer.shape for layer in masks[at][1].layers} for at in (one, other)]
            if shapes[0] == shapes[1]:
                found = agreement(masks[one], masks[other])
                measured.setdefault((one, other), []).append(found[0])
                expected.setdefault((one, other), []).append(found[1])
    used = sorted({at for pair in measured for at in pair})
    if len(used) < 2:
        return ()
    titles = {"measured": measured, "by chance": expected}
    means = {title: {pair: spread(values) for pair, values in found.items()} for title, found in titles.items()}
    apart = [value.mean for found in means.values() for (a, b), value in found.items() if a != b and value]
    names = [lines[at].name for at in used]
    return tuple(
        _heatmap(
            title, names, [[found.get((min(a, b), max(a, b))) for b in used] for a in used], max(apart, default=1.0)
        )
        for title, found in means.items()
    )


def _heatmap(title: str, names: Sequence[str], cells: Sequence[Sequence[Spread | None]], high: float) -> Heatmap:
    def note(row: str, column: str, value: Spread | None) -> str:
        if value is None:
            return "no masks of one seed"
        return f"{row} and {column}, {title}: {plus_minus(value, mean='.4g', std='.2g')}, n = {value.n}"

    return Heatmap(
        title=title,
        names=tuple(names),
        values=tuple(tuple(None if cell is None else cell.mean for cell in row) for row in cells),
        notes=tuple(
            tuple(note(name, other, cell) for other, cell in zip(names, row, strict=True))
            for name, row in zip(names, cells, strict=True)
        ),
        limit=high or 1.0,
    )


def _read(section: Section, record: Record, problems: dict[str, str]) -> Packed | None:
    """The run's masks, or `None`: without a word if there is no file, else with the reason in `problems`."""
    assert section.runs is not None
    path = section.runs / record.id / MASKS
    try:
        return read_masks(path, record) if path.exists() else None
    except (ValueError, OSError) as error:
        problems[f"{record.id}/{MASKS}"] = str(error)
        return None
