"""Groups, spreads and tables against numbers worked out by hand."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from report_records import comparison, failed, full, record
from rich.console import Console

from foreprune.analysis.statistics import Spread, spread
from foreprune.records import Record
from foreprune.report.labels import printable
from foreprune.report.measures import density_texts, percent
from foreprune.report.sections import Row, sections
from foreprune.report.tables import console_table, markdown_table
from foreprune.training.recipes import Recipe


def rows_of(records: Iterable[Record]) -> list[Row]:
    return [row for section in sections(records) for row in section.rows()]


def text_of(records: list, *, width: int = 80, **options: str) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for table in console_table(records, width=width, **options):
        console.print(table)
    return stream.getvalue()


def test_spread_by_hand() -> None:
    # mean (0.90 + 0.92 + 0.97) / 3 = 0.93; squared deviations 0.0009 + 0.0001 + 0.0016 = 0.0026; std = sqrt(0.0026 / 2)
    found = spread([0.90, None, 0.92, 0.97])
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(0.93, abs=1e-15)
    assert found.std == pytest.approx(0.0013**0.5, abs=1e-15)
    assert spread([0.5]) == Spread(n=1, mean=0.5, std=None)
    assert spread([None]) is None
    assert spread([]) is None


def test_percent() -> None:
    assert percent(spread([0.90, 0.92, 0.97])) == "93.00 ± 3.61"
    assert percent(spread([0.91239])) == "91.24"
    assert percent(None) == "–"


@pytest.mark.parametrize(
    ("density", "texts"),
    [
        (1.0, ("1", "0 %")),
        (0.1, ("0.1", "90 %")),
        (0.05, ("0.05", "95 %")),
        (0.8**8, ("0.168", "83.2 %")),
        (0.8**18, ("0.018", "98.2 %")),
        (0.00001, ("0.00001", "99.999 %")),
        (0.999, ("0.999", "0.1 %")),
    ],
)
def test_density_and_sparsity_agree(density: float, texts: tuple[str, str]) -> None:
    assert density_texts(density) == texts


def test_rows_by_hand() -> None:
    records = [
        *(record("dense", seed=seed, top1=top1) for seed, top1 in enumerate((0.96, 0.98))),
        *(record("snip", density=0.1, seed=seed, top1=top1) for seed, top1 in enumerate((0.90, 0.92, 0.97))),
        failed("snip", density=0.1, seed=3),
        record("snip", density=0.01, seed=0, top1=0.5).model_copy(update={"top5": 0.75, "kept": 9, "total": 1000}),
        failed("random", density=0.1),
    ]
    rows = rows_of(reversed(records))
    assert [(row.label, row.density) for row in rows] == [("dense", 1), ("random", 0.1), ("snip", 0.1), ("snip", 0.01)]
    dense, random, snip, sparse = rows
    assert dense.top1 is not None
    assert dense.top1.mean == pytest.approx(0.97)
    assert (random.top1, random.failed, random.seeds) == (None, 1, ())
    assert (snip.seeds, snip.failed, snip.top5) == ((0, 1, 2), 1, None)
    assert snip.top1 is not None
    assert snip.top1.n == 3
    assert snip.top1.mean == pytest.approx(0.93)
    assert snip.top1.std == pytest.approx(0.0013**0.5)
    assert (sparse.top1, sparse.top5) == (Spread(n=1, mean=0.5, std=None), Spread(n=1, mean=0.75, std=None))
    assert sparse.kept == 0.009


def test_labels_name_the_settings_in_which_a_methods_runs_differ() -> None:
    records = [
        record("synflow", density=0.1, hyper={"rounds": 100, "norm": "l2"}),
        record("synflow", density=0.1, hyper={"rounds": 1, "norm": "l2"}),
        record("synflow", density=0.1),
        record("snip", density=0.1, hyper={"batches": 10}),
        record("grasp", density=0.1, scope="local"),
        record("grasp", density=0.1),
    ]
    labels = [row.label for row in rows_of(records)]
    assert labels == [
        "snip",
        'grasp (scope="global")',
        'grasp (scope="local")',
        "synflow",
        'synflow (norm="l2", rounds=1)',
        'synflow (norm="l2", rounds=100)',
    ]


def test_a_number_and_its_text_are_different_settings() -> None:
    records = [record("a", density=0.1, hyper={"x": value}) for value in (1, 1.5, "1", True, None)]
    assert len({row.label for row in rows_of(records)}) == 5
    clash = [record("b", density=0.1, hyper={"scope": value}) for value in ("u", "v")]
    assert len(rows_of(clash)) == 2


def test_runs_trained_otherwise_are_never_averaged() -> None:
    records = [
        record("snip", density=0.1, seed=0, recipe=Recipe(lr=0.1)),
        record("snip", density=0.1, seed=1, recipe=Recipe(lr=0.01)),
        record("snip", density=0.1, seed=2, train_size=100),
        record("snip", density=0.1, seed=3, data="blobs"),
    ]
    found = sections(records)
    assert [len(section.records) for section in found] == [1, 1, 1, 1]
    titles = {section.title for section in found}
    assert "blobs · mlp" in titles
    assert "digits · mlp · lr=0.01 · train_size=0" in titles
    assert "digits · mlp · lr=0.1 · train_size=100" in titles
    assert len({section.slug for section in found}) == 4


def test_a_dense_seed_counts_once_however_pruning_would_have_been_set() -> None:
    records = [record("dense", seed=0), record("dense", seed=0, samples_per_class=50), record("dense", seed=1)]
    (row,) = rows_of(records)
    assert (row.label, row.seeds) == ("dense", (0, 1))


def test_a_record_given_twice_counts_once() -> None:
    assert rows_of([record(seed=1, density=0.1)] * 2)[0].seeds == (1,)


def test_the_console_table_fits_and_compares() -> None:
    text = text_of(comparison())
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "…" not in text
    assert len([line for line in lines if line.strip().startswith("density")]) == 1
    head = lines.index(next(line for line in lines if line.strip().startswith("density")))
    assert lines[head].split() == ["density", "0.2", "0.1", "0.05", "0.01"]
    assert lines[head + 1].split() == ["sparsity", "80", "%", "90", "%", "95", "%", "99", "%"]
    (dense,) = (line for line in lines if line.strip().startswith("dense "))
    assert dense.count("±") == 4
    assert len(set(dense.split()[1:4:1])) == 3
    assert "n = 3" in text
    for method in ("random", "magnitude", "snip", "grasp", "synflow", "ntk-sap"):
        assert sum(line.strip().startswith(f"{method} ") for line in lines) == 1


def test_many_densities_continue_in_further_tables() -> None:
    densities = [round(0.8**power, 6) for power in range(2, 20, 2)]
    text = text_of(comparison(densities=densities, seeds=(0, 1)))
    assert max(len(line) for line in text.splitlines()) <= 80
    heads = [line.split()[1:] for line in text.splitlines() if line.strip().startswith("density")]
    assert [text for head in heads for text in head] == [density_texts(density)[0] for density in densities]
    assert len(heads) == 3
    assert text.count("continued below") == 2


def test_unusual_n_is_starred_and_failed_runs_are_named() -> None:
    records = [record("snip", density=d, seed=s, top1=0.9) for d in (0.1, 0.01) for s in (0, 1, 2)]
    records[5] = failed("snip", density=0.01, seed=2)
    text = text_of(records, width=100)
    assert "90.00 ± 0.00*" in text
    assert "* snip at density 0.01: n = 2" in text
    assert "snip at density 0.01: 1 failed" in text
    markdown = markdown_table(records)
    assert "90.00 ± 0.00\\* |" in markdown
    assert "- snip at density 0.01: 1 failed" in markdown


def test_one_seed_has_no_spread_and_no_dense_no_row() -> None:
    text = text_of(comparison(seeds=(0,), dense=False))
    assert "±" not in text
    assert "dense" not in text
    assert " one seed" in text


def test_top5_can_be_chosen_and_nothing_else() -> None:
    assert "top-5" in text_of(comparison(), metric="top5")
    for table in (console_table, markdown_table):
        with pytest.raises(ValueError, match="metric must be 'top1', 'top5' or 'test_loss', not 'top3'"):
            table([record()], metric="top3")


def test_markdown_by_hand() -> None:
    records = [
        *(record("dense", seed=seed, top1=top1) for seed, top1 in enumerate((0.96, 0.98))),
        *(record("snip", density=0.1, seed=seed, top1=top1) for seed, top1 in enumerate((0.90, 0.92))),
        *(record("random", density=0.05, seed=seed, top1=0.5) for seed in (0, 1)),
    ]
    assert markdown_table(records).splitlines() == [
        "### digits · mlp",
        "",
        "Top-1 test accuracy after the last epoch in %: mean ± sample standard deviation over seeds, n = 2; dense is "
        "the unpruned network (density 1), repeated for comparison. Columns: density, sparsity.",
        "",
        "| method | 0.1<br>90 % | 0.05<br>95 % |",
        "|---|---:|---:|",
        "| dense | 97.00 ± 1.41 | 97.00 ± 1.41 |",
        "| random | – | 50.00 ± 0.00 |",
        "| snip | 91.00 ± 1.41 | – |",
    ]


def test_hostile_text_does_not_leave_its_cell() -> None:
    name = "a|b\n<script>x</script>[l](u)`*\x1b[31m\u202e"
    markdown = markdown_table([record(name, density=0.1)])
    (line,) = (line for line in markdown.splitlines() if "script" in line)
    assert "<script>" not in markdown
    assert line.startswith("| a\\|b &lt;script&gt;x&lt;/script&gt;\\[l\\](u)\\`\\*\N{REPLACEMENT CHARACTER}\\[31m")
    console = text_of([record("[l](u)\x1b[31m\u202e", density=0.1)], width=120)
    assert "\x1b" not in console
    assert "\u202e" not in console
    assert "[31m" in console
    assert "[l](u)" in console


def test_printable_is_one_line() -> None:
    assert printable("a\r\n\tb\x00c é 網") == "a   b\N{REPLACEMENT CHARACTER}c é 網"


def test_what_was_kept_is_averaged_from_the_counts() -> None:
    rows = rows_of([full("snip", 0.1, seed) for seed in (0, 1)])
    assert rows[0].kept == pytest.approx(7531 / 75312)
