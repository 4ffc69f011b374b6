"""The panel of ablations: what each method's result becomes when its masks or weights are changed on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foreprune.report.charts import Axis, Chart, Panel, Series, View, panel
from foreprune.report.colors import Style, ablation_style
from foreprune.report.labels import ORIGINAL, ablation_order
from foreprune.report.measures import band, density_label, spread
from foreprune.report.panels import dense_line, density_axis, result_axis, result_line, seeds_words
from foreprune.report.sections import Section
from foreprune.report.tables import Row, section_rows

_INVERTED = "inverted"


def ablated_bases(section: Section) -> tuple[str, ...]:
    """Labels of the original runs of which there are ablated ones, in the order of legends."""
    bases = {section.variants[label].base for label, _ in section.methods(ablated=True)}
    known = [label for label, _ in section.methods() if label in bases]
    return (*known, *sorted(bases - set(known)))


def ablation_styles(section: Section) -> dict[str, Style]:
    """Style of "original" and of every ablation of the section; fractions of widening differ in dash."""
    found = {ORIGINAL: ablation_style(ORIGINAL)}
    widened = 0
    for words in sorted({variant.ablation for variant in section.variants.values()} - {""}, key=ablation_order):
        found[words] = ablation_style(words, variant=widened)
        widened += words.startswith("widened")
    return found


@panel("ablations")
def ablations(section: Section) -> Panel | None:
    """Per method: the original and each ablation against density, and the paired differences between them."""
    bases = ablated_bases(section)
    if not bases:
        return None
    rows = [*section_rows(section), *section_rows(section, ablated=True)]
    ablated = {label for label, _ in section.methods(ablated=True)}
    densities = sorted({row.density for row in rows if row.label in ablated and row.value(section.measure)})
    if not densities:
        return None
    results = _results(section, bases, rows, densities)
    changes = _changes(section, bases, densities)
    views = [View(label=section.measure.name, charts=results)]
    if any(chart.series for chart in changes):
        views.append(View(label="difference to the original", charts=changes))
    what = section.measure.name.removeprefix("top-1 ")
    has_dense = any(line.reference for chart in results for line in chart.series)
    return Panel(
        name="ablations",
        title="Ablations",
        description=(
            f"One chart per method: {what} of its original pruned networks against density, and of the same networks "
            "with the mask shuffled within layers, the weights drawn anew, the scores inverted or lost units brought "
            "back, as far as they were run. Means over seeds with a band of one standard deviation. "
            + ("The dashed line is the dense network. " if has_dense else "")
            + "The second view shows the difference to the original run of the same seed, on an axis made for the "
            "ablations other than inversion, which may leave it."
        ),
        views=tuple(views),
        opens=0,
    )


def _results(
    section: Section, bases: Sequence[str], rows: Sequence[Row], densities: Sequence[float]
) -> tuple[Chart, ...]:
    looks = ablation_styles(section)
    dense = dense_line(section, [densities[0] / 1.25, *densities, densities[-1] * 1.25])
    found = []
    for base in bases:
        lines: list[Series] = [] if dense is None else [dense]
        for words in looks:
            label = base if words == ORIGINAL else f"{base}, {words}"
            mine = [
                (row.density, density_label(row.density), row)
                for row in rows
                if row.label == label and row.density in densities
            ]
            line = result_line(section, mine, name=words, label=label, style=looks[words])
            if line.x:
                lines.append(line)
        found.append((base, tuple(lines)))
    limits = _limits(line for _, lines in found for line in lines)
    axis = result_axis(section.measure, limits=limits)
    return tuple(Chart(x=density_axis(densities), y=axis, series=lines, title=base) for base, lines in found)


def _changes(section: Section, bases: Sequence[str], densities: Sequence[float]) -> tuple[Chart, ...]:
    """Differences between an ablated run and the original of the same seed and density."""
    measure, looks = section.measure, ablation_styles(section)
    found = []
    for base in bases:
        lines = []
        for words in looks:
            if words == ORIGINAL:
                continue
            places, values = [], []
            for density in densities:
                pairs = paired(section, f"{base}, {words}", base, density)
                value = spread(one - other for one, other in pairs.values())
                if value is not None:
                    places.append((density, tuple(pairs)))
                    values.append(value)
            if values:
                lines.append(
                    Series(
                        label=words,
                        style=looks[words],
                        x=tuple(density for density, _ in places),
                        y=tuple(measure.factor * value.mean for value in values),
                        band=tuple(band(value, factor=measure.factor) for value in values),
                        notes=tuple(
                            f"{base}, {words}, {density_label(density)}: {measure.change(value.mean)} "
                            + (f"± {abs(measure.factor) * value.std:.2g} " if value.std is not None else "")
                            + f"{measure.difference_unit} against the original, n = {value.n}, {seeds_words(seeds)}"
                            for (density, seeds), value in zip(places, values, strict=True)
                        ),
                    )
                )
        found.append((base, tuple(lines)))
    every = [line for _, lines in found for line in lines]
    # inverting often costs everything; beside that, what the other ablations do could not be seen
    limits = _limits([line for line in every if line.label != _INVERTED] or every, around=0.0)
    axis = Axis(label=f"difference ({measure.difference_unit})" if measure.unit else "difference", limits=limits)
    return tuple(Chart(x=density_axis(densities), y=axis, series=lines, title=base) for base, lines in found)


def paired(section: Section, label: str, other: str, density: float) -> dict[int, tuple[float, float]]:
    """Seed -> results of `label` and `other` at this density, for the seeds that finished both."""
    measure = section.measure
    mine, theirs = (
        {
            record.experiment.seed: value
            for record in section.finished(label=each, density=density)
            if (value := measure.of(record)) is not None
        }
        for each in (label, other)
    )
    return {seed: (mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())}


def _limits(lines: Iterable[Series], *, around: float | None = None) -> tuple[float, float] | None:
    """Limits that every chart of a view shares, so that they can be compared; `around` lies between them."""
    values = [] if around is None else [around]
    for line in lines:
        values += line.y
        values += [end for pair in line.band if pair for end in pair]
    if not values or min(values) == max(values):
        return None
    margin = 0.05 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin
