"""Image files: whole, readable, with text as text, and hostile names drawn as they are."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
import pytest
from PIL import Image
from report_records import METHODS, comparison, study

from foreprune.report.charts import Heatmap, Panel, View
from foreprune.report.figures import draw, image_files
from foreprune.report.interactive import heatmap
from foreprune.report.panels import build_panels
from foreprune.report.sections import sections

SVG = "{http://www.w3.org/2000/svg}"


def panels(**choices: Any) -> dict[str, Panel]:
    (section,) = sections(comparison(**choices))
    return {panel.name: panel for panel in build_panels(section)}


@pytest.fixture(scope="module")
def accuracy() -> dict[str, bytes]:
    return image_files(panels(densities=(0.1, 0.01))["accuracy"], heading="digits · resnet20")


def texts(svg: bytes) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_png_is_sharp_and_says_what_it_shows(accuracy: dict[str, bytes]) -> None:
    with Image.open(io.BytesIO(accuracy["png"])) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == 1600
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert image.info["Title"] == "Accuracy against density"
        assert "logarithmic axis" in image.info["Description"]


def test_svg_text_is_text(accuracy: dict[str, bytes]) -> None:
    found = texts(accuracy["svg"])
    assert "Accuracy against density – digits · resnet20" in found
    for label in ("dense", *METHODS, "0.1", "90 %", "top-1 test accuracy (%)"):
        assert label in found


def test_the_same_panel_gives_the_same_bytes(accuracy: dict[str, bytes]) -> None:
    again = image_files(panels(densities=(0.1, 0.01))["accuracy"], heading="digits · resnet20")
    assert again == accuracy


def test_every_view_has_its_axes_and_the_legend_overlaps_none() -> None:
    found = panels(seeds=(0, 1))
    for name, count in (("accuracy", 1), ("layer-density", 4), ("layer-width", 4), ("curves", 8)):
        figure = draw(found[name], heading="x")
        figure.draw_without_rendering()
        shown = [axes for axes in figure.axes if axes.axison]
        assert len(shown) == count
        (legend,) = figure.legends
        box = legend.get_window_extent()
        for axes in shown:
            assert not box.overlaps(axes.get_tightbbox())
        assert [text.get_text() for text in legend.get_texts()] == [label for label, _ in found[name].labels()]
        titles = [axes.get_title(loc="left") for axes in shown if axes.get_title(loc="left")]
        assert titles == [view.label for view in found[name].views if view.label]


def test_heatmaps_show_their_numbers() -> None:
    names = ("snip", "<b>&$x$")
    values = ((1.0, 0.25), (0.25, None))
    chart = Heatmap(title="measured", names=names, values=values, notes=(("", "n"), ("n", "")), limit=0.5)
    panel = Panel("x", "Overlap", "An alternative text.", (View("density 0.1", (chart, chart)),))
    files = image_files(panel, heading="digits")
    found = [text.strip("\N{ZERO WIDTH SPACE}") for text in texts(files["svg"])]
    assert found.count("1.00") == 2
    assert found.count("0.25") == 4
    assert found.count("<b>&$x$") == 4
    assert b"<b>" not in files["svg"]
    figure = draw(panel, heading="digits")
    assert not figure.legends
    image = figure.axes[0].images[0]
    assert image.get_clim() == (0, 0.5)
    data = heatmap(chart)["data"][0]
    assert data["z"] == [[1.0, 0.25], [0.25, None]]
    assert data["text"] == [["1.00", "0.25"], ["0.25", ""]]
    assert data["x"] == ["snip", "&lt;b&gt;&amp;$x$"]
    assert data["meta"] == list(names)


def test_small_multiples_begin_on_a_new_line_and_their_labels_stay_apart() -> None:
    methods = ("magnitude", "snip", "grasp", "synflow")
    (section,) = sections(study(methods=methods, epochs=2, seeds=(0,), densities=(0.4, 0.2, 0.1, 0.05, 0.02, 0.01)))
    panel = next(panel for panel in build_panels(section) if panel.name == "ablations")
    figure = draw(panel, heading="x")
    figure.draw_without_rendering()
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    words = ("top-1 test accuracy", "difference to the original")
    assert titles == [f"{view}: {method}" for view in words for method in methods]
    shown = [axes for axes in figure.axes if axes.axison]
    places = [axes.get_subplotspec() for axes in shown]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        *((0, 0), (0, 1), (0, 2), (1, 0)),
        *((2, 0), (2, 1), (2, 2), (3, 0)),
    ]
    for axes in shown:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(boxes) >= 3
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_secondary_views_are_left_to_the_page() -> None:
    (section,) = sections(study(epochs=2, seeds=(0,)))
    panel = next(panel for panel in build_panels(section) if panel.name == "curves")
    assert len(panel.views) > 2
    assert len([axes for axes in draw(panel, heading="x").axes if axes.axison]) == 2 * 2


def test_bands_are_drawn_where_there_is_a_spread() -> None:
    def bands(**choices: Any) -> int:
        return len(draw(panels(**choices)["accuracy"], heading="x").axes[0].collections)

    assert bands(seeds=(0, 1)) == len(METHODS) + 1
    assert bands(seeds=(0,)) == 0


def test_hostile_names_are_drawn_as_they_are() -> None:
    names = ["_hidden", "$x", "$\\frac{1}$", "<script>alert(1)</script>", "a & b"]
    files = image_files(panels(methods=names, densities=(0.1,), seeds=(0,))["accuracy"], heading="<b>$y$")
    found = [text.strip("\N{ZERO WIDTH SPACE}") for text in texts(files["svg"])]
    for name in names:
        assert name in found
    assert "Accuracy against density – <b>$y$" in found
    assert b"<script" not in files["svg"]


def test_a_users_settings_neither_matter_nor_change(accuracy: dict[str, bytes]) -> None:
    with matplotlib.rc_context({"axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        again = image_files(panels(densities=(0.1, 0.01))["accuracy"], heading="digits · resnet20")
        assert dict(matplotlib.rcParams) == before
    assert again == accuracy


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = panels(densities=(0.1,), seeds=(0,))["accuracy"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"figures need matplotlib: pip install 'foreprune\[report\]'"):
        image_files(panel, heading="x")


def test_the_report_imports_neither_torch_nor_an_extra_until_it_draws() -> None:
    code = (
        "import sys, foreprune.report.render, foreprune.report.panels;"
        "print([m for m in ('torch', 'matplotlib', 'plotly', 'pandas', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from report_records import comparison;"
        "from foreprune.report.sections import sections;"
        "from foreprune.report.panels import build_panels;"
        "from foreprune.report.figures import image_files;"
        "section, = sections(comparison(densities=[0.1], seeds=[0]));"
        "image_files(build_panels(section)[0], heading='x');"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(__file__).rsplit("/", 1)[0]], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
