"""The page: complete, self-contained, and safe to open whatever the records say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go
import pytest
from report_records import METHODS, comparison, failed, full, record

from foreprune.report.interactive import escape, figure, panel_figures, wrapped
from foreprune.report.page import lead, page, provenance
from foreprune.report.panels import build_panels
from foreprune.report.sections import sections

HOSTILE = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Every tag with its attributes, and all text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif not self.inside:
            self.words.append(data)

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


@pytest.fixture(autouse=True, scope="module")
def light() -> Iterator[None]:
    """Pages without the five megabytes of plotly.js, which only slow these tests down; the browser's test has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foreprune.report.page.plotly_source", lambda: "/* plotly.js */")
        yield


@pytest.fixture(scope="module")
def whole() -> Reader:
    records = comparison()
    records[10] = failed("random", density=0.05, seed=9, model="resnet20", recipe=records[0].experiment.recipe)
    return Reader(page(records, problems=[("runs/cut/record.json", "not valid JSON: EOF")]))


def test_the_page_asks_no_network_for_anything(whole: Reader) -> None:
    for tag, attributes in whole.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith("#") or value == "data:,", (tag, name, value)
        assert "url(" not in (attributes.get("style") or "")
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not whole.having("iframe")
    (policy,) = whole.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; ")
    assert "http" not in policy["content"]


def test_every_panel_and_the_table_are_there(whole: Reader) -> None:
    names = [found["data-name"] for found in whole.having("figure")]
    assert names == ["accuracy", "layer-density", "layer-width", "curves"]
    assert len(whole.having("div", **{"class": "plot"})) == 5
    assert len(whole.having("select")) == 3
    images = [found for _, found in whole.tags if found.get("role") == "img"]
    assert all(len(found["aria-label"]) > 40 for found in images)
    assert len(images) == 4
    rows = whole.having("th", scope="row")
    assert len(rows) == 1 + 6 * 4 + 9, "dense, the results, and the means of each method against its references"
    assert "96.16 ± 0.16" in whole.text


def test_every_method_can_be_switched_by_keyboard(whole: Reader) -> None:
    keys = whole.having("button", **{"class": "key"})
    assert {found["data-label"] for found in keys} == {"dense", *METHODS}
    assert {found["aria-pressed"] for found in keys} == {"true"}
    assert {found["type"] for _, found in whole.tags if _ == "button"} == {"button"}


def test_the_page_says_what_was_run_and_what_went_wrong(whole: Reader) -> None:
    assert "75 runs of 6 pruning methods at 4 densities with 4 seeds on digits with resnet20." in whole.text
    assert "1 run failed and 1 record could not be read" in whole.text
    assert "ValueError: no luck" in whole.text
    assert "runs/cut/record.json not valid JSON: EOF" in whole.text
    assert "foreprune compare --data digits --model resnet20 (74 runs)" in whole.text
    assert "versions.torch 2.13.0 (74 runs)" in whole.text
    assert "0123456789abcdef" in whole.text


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    found = Reader(page([*comparison(seeds=(0,)), *comparison(seeds=(0,), data="cifar10"), *_two_recipes()]))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for attributes in found.having("a")]
    assert len(links) == 1 + 4 + 1
    assert set(links) <= set(ids)


def _two_recipes() -> list:
    return [full("snip", 0.1, 0, data="blobs", epochs=epochs) for epochs in (2, 3)]


def test_hostile_text_stays_text() -> None:
    settings: dict[str, Any] = {"density": 0.1, "data": HOSTILE, "model": '"><img src=x onerror=alert(1)>'}
    hyper = {f"k{HOSTILE}": HOSTILE}
    run = full(HOSTILE, 0.1, 0, data=HOSTILE, hyper=hyper)
    layers = tuple(layer.model_copy(update={"name": f"{HOSTILE}{layer.name}"}) for layer in run.layers)
    environment = {HOSTILE: HOSTILE, "nested": {"a": [HOSTILE]}, "link": "javascript:alert(1)"}
    run = run.model_copy(update={"layers": layers, "environment": environment})
    broken = failed("</script><b>", error=f"{HOSTILE}\n</pre>\x1b[31m{HOSTILE}", **settings)
    html = page([run, broken], problems=[(HOSTILE, f"</li>{HOSTILE}")])
    found = Reader(html)
    plain = Reader(
        page([full("snip", 0.1, 0, hyper={"k": 1}), failed("grasp", density=0.1, data="a")], problems=[("a", "b")])
    )
    assert [tag for tag, _ in found.tags if tag != "dd" and tag != "dt"] == [
        tag for tag, _ in plain.tags if tag != "dd" and tag != "dt"
    ]
    assert len(found.scripts) == len(plain.scripts) == 3
    assert HOSTILE in found.text
    assert "\x1b" not in html
    assert "<script>alert" not in html
    assert "<img" not in html


def test_hostile_text_is_escaped_for_plotly() -> None:
    (section,) = sections([full('<a href="http://x">&%{x}', 0.1, seed) for seed in (0, 1)])
    for panel in build_panels(section):
        for view in panel_figures(panel):
            for chart in view["charts"]:
                for trace in chart["data"]:
                    for text in (trace.get("name", ""), *trace.get("text", [])):
                        assert "<" not in text.replace("<br>", "")
                        assert "hovertemplate" not in trace
    assert escape("<a>&") == "&lt;a&gt;&amp;"


def test_every_figure_is_valid_plotly_and_plain_json() -> None:
    (section,) = sections(comparison(seeds=(0, 1)))
    for panel in build_panels(section):
        for view in panel.views:
            for chart in view.charts:
                found = figure(chart)
                go.Figure(found)
                assert json.loads(json.dumps(found, allow_nan=False)) == found
                assert found["layout"]["showlegend"] is False
                assert {trace["legendgroup"] for trace in found["data"]} == {series.label for series in chart.series}


def test_the_dense_reference_is_dashed_with_a_band() -> None:
    (section,) = sections(comparison())
    data = figure(build_panels(section)[0].views[0].charts[0])["data"]
    band, line = (trace for trace in data if trace["legendgroup"] == "dense")
    assert line["line"]["dash"] == "dash"
    assert line["mode"] == "lines"
    assert band["fill"] == "toself"
    assert len(band["x"]) == 2 * len(line["x"])


def test_a_section_without_a_finished_run_says_so() -> None:
    found = Reader(page([failed("snip", density=0.1)]))
    assert "No pruned run has finished here" in found.text
    assert not found.having("figure")
    assert len(found.having("th", scope="row")) == 1


def test_lead() -> None:
    assert lead([record("dense"), record("snip", density=0.1)]) == (
        "2 runs of 1 pruning method at 1 density with 1 seed on digits with mlp."
    )
    assert lead([record("snip", density=0.1)]).endswith("No dense reference was run.")
    assert lead([record("dense", seed=3)]) == "1 run with 1 seed on digits with mlp."
    many = lead([record("dense", data=f"d{at}") for at in range(6)])
    assert many.endswith("on d0 with mlp, d1 with mlp, d2 with mlp, d3 with mlp and 2 more.")


def test_provenance_counts_values_that_differ() -> None:
    records = [
        record("snip", density=0.1, seed=seed).model_copy(
            update={"environment": {"device": "cpu", "host": {"started": seed}}, "seconds_train": 30.5}
        )
        for seed in range(8)
    ]
    facts = dict(provenance(records))
    assert facts["runs"] == ["8: 8 finished, 0 failed"]
    assert facts["seeds"] == ["0, 1, 2, 3, 4, 5, 6, 7"]
    assert facts["device"] == ["cpu"]
    assert facts["host.started"] == [
        "0 (1 run)",
        "1 (1 run)",
        "2 (1 run)",
        "3 (1 run)",
        "4 (1 run)",
        "and 3 other values",
    ]
    assert facts["time spent training"] == ["4 min 04 s over 8 runs"]
    assert "time spent pruning" not in facts


def test_of_times_the_first_and_the_last_are_given() -> None:
    ended = ["2026-01-01T10:00:05+00:00", "2026-01-01T09:59:00+00:00", "2026-01-01T10:00:00+00:00"]
    records = [
        record("snip", density=0.1, seed=seed).model_copy(update={"environment": {"started": ended[0], "ended": each}})
        for seed, each in enumerate(ended)
    ]
    facts = dict(provenance(records))
    assert facts["ended"] == [f"{ended[1]} to {ended[0]}"]
    assert facts["started"] == [ended[0]]


def test_the_number_of_prunable_weights_is_told() -> None:
    run = record("snip", density=0.1).model_copy(update={"kept": 120, "total": 1200})
    assert "1,200 prunable weights. Trained for" in Reader(page([run])).text
    assert "prunable weights" not in Reader(page([record("snip", density=0.1)])).text


def test_kept_is_shown_where_it_is_not_what_was_asked_for() -> None:
    run = record("phew", density=0.1).model_copy(update={"kept": 120, "total": 1000})
    assert "kept 0.12" in Reader(page([run])).text
    assert "kept 0.1" not in Reader(page([run.model_copy(update={"kept": 100})])).text


def test_hover_texts_are_broken_into_lines() -> None:
    assert wrapped("one two three", width=7) == "one two<br>three"
    assert wrapped("unbreakable", width=4) == "unbreakable"


def test_long_errors_are_cut_at_the_front() -> None:
    found = Reader(page([failed("snip", density=0.1, error=f"FIRST {'x ' * 4000}\nlast line")]))
    assert "FIRST" not in found.text
    assert "last line" in found.text


def test_without_jinja2_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"needs jinja2: pip install 'foreprune\[report\]'"):
        page([record("snip", density=0.1)])
