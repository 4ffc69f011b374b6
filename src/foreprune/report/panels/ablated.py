"""The panel of ablations: what each method's result becomes when its masks or weights are changed on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foreprune.analysis.statistics import spread
from foreprune.report.charts import Axis, Chart, Panel, Series, View
from foreprune.report.colors import Style, ablation_styles
from foreprune.report.labels import ORIGINAL, ablation_called, ablation_order
from foreprune.report.lines import (
    dense_level,
    dense_words,
    density_axis,
    density_limits,
    mean_line,
    result_line,
    seeds_words,
)
from foreprune.report.measures import density_label
from foreprune.report.panels import panel
from foreprune.report.sections import Section


def _bases(section: Section) -> tuple[str, ...]:
    """Labels of the original runs of which there are ablated ones, in the order of legends."""
    bases = {section.variants[label].base for label, _ in section.methods(ablated=True)}
    known = [label for label, _ in section.methods() if label in bases]
    return (*known, *sorted(bases - set(known)))


def _styles(section: Section) -> dict[str, Style]:
    """Style of "original" and of every ablation of the section."""
    ablated = {variant.ablation for variant in section.variants.values()} - {""}
    return ablation_styles((ORIGINAL, *sorted(ablated, key=ablation_order)))


def _chosen_otherwise(words: str) -> bool:
    """Whether the ablation changed the method, as inverting its scores does."""
    found = ablation_called(words)
    return found is not None and found.changes == "method"


@panel("ablations")
def ablations(section: Section) -> Panel | None:
    """Per method: the original and each ablation against density, and the paired differences between them."""
    ablated = section.rows(ablated=True)
    densities = sorted({row.density for row in ablated if row.value(section.measure)})
    if not densities:
        return None
    results, changes = _results(section, densities), _changes(section, densities)
    views = [View(label=section.measure.name, charts=results)]
    if any(chart.series for chart in changes):
        views.append(View(label="difference to the original", charts=changes))
    return Panel(
        name="ablations",
        title="Ablations",
        description=(
            f"One chart per method: {section.measure.short} of its original pruned networks against density, and of "
            "the same networks with the mask shuffled within layers, the weights drawn anew, the scores inverted or "
            "lost units brought back, as far as they were run. Means over seeds with a band of one standard deviation. "
            f"{dense_words(results)}The second view shows the difference to the original run of the same seed, on an "
            "axis made for the ablations other than inversion, which may leave it."
        ),
        views=tuple(views),
        opens=0,
    )


def _results(section: Section, densities: Sequence[float]) -> tuple[Chart, ...]:
    rows = [row for row in (*section.rows(), *section.rows(ablated=True)) if row.density in densities]
    low, high = density_limits(densities)
    dense = dense_level(section, [low, *densities, high])
    found = {}
    for base in _bases(section):
        lines = []
        for words, style in _styles(section).items():
            label = base if words == ORIGINAL else f"{base}, {words}"
            mine = [(row.density, density_label(row.density), row) for row in rows if row.label == label]
            lines.append(result_line(section, mine, name=words, style=style, label=label))
        found[base] = [*dense, *(line for line in lines if line.x)]
    return _charts(found, densities, section.measure.axis, _limits(line for lines in found.values() for line in lines))


def _changes(section: Section, densities: Sequence[float]) -> tuple[Chart, ...]:
    """Differences between an ablated run and the original of the same seed and density."""
    measure = section.measure
    found: dict[str, list[Series]] = {}
    for base in _bases(section):
        found[base] = []
        for words, style in _styles(section).items():
            points = []
            for density in densities if words != ORIGINAL else ():
                pairs = section.pairs(f"{base}, {words}", base, density)
                value = spread(one - other for one, other in pairs.values())
                if value is not None:
                    note = (
                        f"{base}, {words}, {density_label(density)}: {measure.change(value.mean)} "
                        + (f"± {measure.factor * value.std:.2g} " if value.std is not None else "")
                        + f"{measure.difference_unit} against the original, n = {value.n}, {seeds_words(pairs)}"
                    )
                    points.append((density, value, note))
            if points:
                found[base].append(mean_line(words, style, points, factor=measure.factor))
    every = [line for lines in found.values() for line in lines]
    # another choice of weights often costs everything; beside that, what the other ablations do could not be seen
    limits = _limits([line for line in every if not _chosen_otherwise(line.label)] or every, around=(0.0,))
    return _charts(
        found, densities, f"difference ({measure.difference_unit})" if measure.unit else "difference", limits
    )


def _charts(
    lines: dict[str, list[Series]], densities: Sequence[float], label: str, limits: tuple[float, float] | None
) -> tuple[Chart, ...]:
    y = Axis(label=label, limits=limits)
    return tuple(Chart(x=density_axis(densities), y=y, series=tuple(own), title=base) for base, own in lines.items())


def _limits(lines: Iterable[Series], *, around: tuple[float, ...] = ()) -> tuple[float, float] | None:
    """Limits that every chart of a view shares, so that they can be compared; `around` lies between them."""
    values = list(around)
    for line in lines:
        values += [*line.y, *(end for pair in line.band if pair for end in pair)]
    if not values or min(values) == max(values):
        return None
    margin = 0.05 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin
