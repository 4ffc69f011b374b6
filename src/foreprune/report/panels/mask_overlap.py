"""The panel of overlap: how far the masks of two methods agree, and how far they would by chance.

Masks are read from `<run>/masks.safetensors` beside the records, one bit per weight. A file is used only if its layers
keep as many weights as the record says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foreprune.analysis.statistics import Spread, overlap_of_counts, spread
from foreprune.core.mask_files import Bits, PackedMasks, read_bits
from foreprune.records import Record
from foreprune.report.charts import Heatmap, Panel, View
from foreprune.report.labels import printable
from foreprune.report.measures import density_label, plus_minus
from foreprune.report.panels import panel
from foreprune.report.sections import Section

MASKS = "masks.safetensors"
MOST_BYTES = 2**31  # of packed masks compared with each other in one section: a few seconds
MOST_METHODS = 16
_MOST_NOTES = 5
_DRAWN = 3  # densities in the image files, which would be taller than a page with all of them

Packed = Mapping[str, Bits]
Pairs = dict[tuple[str, str], list[float]]  # names of two methods -> a number for each seed


def read_masks(path: Path, record: Record) -> Packed:
    """The masks of one run, packed eight weights to a byte, by layer.

    Raises:
        ValueError: it is no mask file, damaged, or of another run than `record`.
        OSError: it cannot be opened.
    """
    found = by_layer(read_bits(path))
    expected = {layer.name: layer for layer in record.layers}
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())[0]
        raise ValueError(f"masks of other layers than the record's: {odd!r}")
    for name, layer in expected.items():
        shape, bits = found[name]
        if shape != layer.shape:
            raise ValueError(f"{name!r} has another shape than in the record")
        if (kept := ones(bits)) != layer.kept:
            raise ValueError(f"{name!r} keeps {kept} weights, {layer.kept} in the record")
    return {name: bits for name, (_, bits) in found.items()}


def by_layer(masks: PackedMasks) -> dict[str, tuple[tuple[int, ...], Bits]]:
    """Layer -> its shape and packed bits; tensors that hold several layers are taken apart."""
    layers = {}
    for name, shape in masks.shapes.items():
        if name not in masks.table:
            layers[name] = shape, masks.bits[name]
            continue
        kept = np.unpackbits(masks.bits[name], count=math.prod(shape)).reshape(shape)
        for block in masks.table[name]:
            layers[block.name] = block.shape, np.packbits(kept[block.index])
    return layers


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
    names = list(section.lines())
    notes = []
    if len(names) > MOST_METHODS:
        notes.append(f"Only the first {MOST_METHODS} of {len(names)} methods are compared.")
        names = names[:MOST_METHODS]
    total = max((record.total or 0 for record in section.records), default=0)
    pairs = len(names) * (len(names) + 1) // 2 * len(section.densities())
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
        charts = _heatmaps(section, names, density, seeds, problems)
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
    section: Section, names: Sequence[str], density: float, seeds: Sequence[int], problems: dict[str, str]
) -> tuple[Heatmap, ...]:
    """The measured and the expected matrix of one density; nothing if fewer than two methods have masks."""
    measured, expected = Pairs(), Pairs()
    runs_of = section.pruned(density)
    for seed in seeds:
        masks: dict[str, tuple[Packed, Record]] = {}
        for name in names:
            for run in runs_of[name]:
                if run.experiment.seed == seed and run.layers:
                    packed = _read(section, run, problems)
                    if packed is not None:
                        masks[name] = (packed, run)
        for pair in itertools.combinations_with_replacement(masks, 2):
            one, other = (masks[name] for name in pair)
            if {layer.name: layer.shape for layer in one[1].layers} == {x.name: x.shape for x in other[1].layers}:
                found = agreement(one, other)
                measured.setdefault(pair, []).append(found[0])
                expected.setdefault(pair, []).append(found[1])
    used = [name for name in names if (name, name) in measured]
    if len(used) < 2:
        return ()
    means = [{pair: spread(values) for pair, values in every.items()} for every in (measured, expected)]
    apart = [value.mean for every in means for (one, other), value in every.items() if one != other and value]
    return tuple(
        _heatmap(
            title, used, [[every.get((a, b), every.get((b, a))) for b in used] for a in used], max(apart, default=1)
        )
        for title, every in zip(("measured", "by chance"), means, strict=True)
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
