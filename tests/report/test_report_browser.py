"""The page in a real browser: no errors, every plot drawn, switches, selector and sorting at work, nothing fetched."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_records import ABLATIONS, failed, study, write_masks

from foreprune.records import Record
from foreprune.report.page import page
from foreprune.report.panels import build_panels
from foreprune.report.sections import sections

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,3000", "--virtual-time-budget=30000"),
)
HOSTILE = '<img src=x onerror=document.title="owned">'

# Waits until the page has drawn itself, uses it as a reader would and leaves what it saw in the document.
PROBE = """
<script>
(async () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const pause = (time) => new Promise((done) => setTimeout(done, time));
  while (!document.documentElement.dataset.drawn) await pause(20);
  const lines = (panel) => all(`figure[data-name="${panel}"] .scatterlayer .trace`).length;
  const seen = {};
  const drawn = (panel) => [...panel.querySelectorAll(".plot:not([hidden])")].map(
    (plot) => plot.querySelectorAll("svg.main-svg"));
  seen.plots = all("figure.panel").map((panel) => [panel.dataset.name, drawn(panel).map((found) => found.length)]);
  const toggle = (panel) => document.querySelector(`.switch[aria-controls$="-${panel}-panel"]`);
  const shown = (panel) => [toggle(panel).getAttribute("aria-pressed"), toggle(panel).checkVisibility(),
    document.getElementById(toggle(panel).getAttribute("aria-controls")).checkVisibility()];
  seen.waiting = shown("curves");
  toggle("curves").click();
  seen.asked = [...shown("curves"), lines("curves") > 0];
  toggle("layer-width").click();
  seen.gone = shown("layer-width");
  toggle("table").click();
  seen.tableGone = shown("table");
  toggle("table").click();
  seen.tableBack = shown("table");
  seen.buttons = [...new Set(all(".modebar-btn").map((button) => button.dataset.title))].sort();
  seen.before = lines("accuracy");
  const key = document.querySelector('figure[data-name="curves"] .key[data-label="snip"]');
  key.click();
  const pressed = (root) => all(`${root} .key[data-label="snip"]`).map((found) => found.getAttribute("aria-pressed"));
  seen.pressed = pressed("figure:not([hidden])");
  seen.after = lines("accuracy");
  const titles = all('figure[data-name="ablations"] .plot:not([hidden]) .gtitle');
  seen.ablated = titles.map((node) => node.textContent);
  const cells = () => all('figure[data-name="mask-overlap"] .plot')[0]?.data[0].z.length;
  seen.cells = [cells()];
  toggle("layer-width").click();
  seen.caughtUp = pressed('figure[data-name="layer-width"]');
  key.click();
  seen.cells.push(cells());
  seen.again = lines("accuracy");
  const all_button = document.querySelector('figure[data-name="accuracy"] .all');
  all_button.click();
  seen.none = lines("layer-density");
  seen.label = all_button.textContent;
  all_button.click();
  const select = document.querySelector('figure[data-name="layer-width"] select');
  seen.first = select.selectedOptions[0].text;
  select.value = "0";
  select.dispatchEvent(new Event("change", { bubbles: true }));
  seen.chosen = all("select.view").map((found) => found.selectedOptions[0].text);
  const rows = () => [...document.querySelector("table.sortable tbody").rows];
  const column = (at) => rows().map((row) => Number(row.children[at].dataset.value));
  const head = all("table.sortable thead th")[2];
  head.querySelector("button").click();
  seen.up = [head.getAttribute("aria-sort"), column(2)];
  head.querySelector("button").click();
  seen.down = [head.getAttribute("aria-sort"), column(2)];
  seen.width = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.overlaps = all("figure.panel").filter((panel) => panel.querySelector(".legend")).some((panel) => {
    const legend = panel.querySelector(".legend").getBoundingClientRect();
    return drawn(panel).some((plots) => plots[0].getBoundingClientRect().bottom > legend.top + 1);
  });
  seen.wide = all(".plot:not([hidden])").filter((plot) => plot.querySelector("svg.main-svg")).some((plot) => {
    const outer = plot.closest("figure").getBoundingClientRect();
    return plot.querySelector("svg.main-svg").getBoundingClientRect().right > outer.right + 1;
  });
  // What a keyboard reaches, and what a screen reader is told.
  const focusable = all("a[href], button, select, summary, [tabindex]").filter((found) => found.checkVisibility());
  seen.unreachable = focusable.filter((found) => { found.focus(); return document.activeElement !== found; }).length;
  seen.nameless = focusable.filter((found) => !(found.textContent.trim() || found.getAttribute("aria-label")
    || found.getAttribute("aria-labelledby") || found.closest("label")?.textContent.trim())).length;
  seen.silent = all('[role="img"]').filter((found) => (found.getAttribute("aria-label") ?? "").length < 40).length;
  seen.headings = all("h1, h2, h3").map((found) => Number(found.tagName[1]));
  // Contrast of all visible text outside the plots, after WCAG 2.
  const channel = (value) => { const s = value / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (found) => {
    for (let at = found; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  seen.pale = all("body *").filter((found) => !found.closest(".plot, svg, script, .skip") && found.checkVisibility()
    && [...found.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())).filter((found) => {
      const one = luminance(parse(getComputedStyle(found).color)), other = luminance(ground(found));
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5;
    }).map((found) => found.outerHTML.slice(0, 80));
  seen.images = document.images.length;
  const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.requests = fetched.filter((name) => !name.startsWith("data:"));
  window.dispatchEvent(new Event("beforeprint"));
  seen.printed = Math.max(...all(".plot:not([hidden])").map((plot) => plot.layout?.width ?? 0));
  window.dispatchEvent(new Event("afterprint"));
  const note = document.createElement("p");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
})();
</script>
</body>
"""


class Seen(HTMLParser):
    """The text of `#seen` in the browser's dump of the document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside = False
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = ("id", "seen") in attrs

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside else ""


def browse(file: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM),
        *OPTIONS,
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        *options,
        file.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def look(html: str, folder: Path, *, width: int) -> dict[str, Any]:
    """Open the page in a frame of `width` pixels, use it, and return what the probe saw; the console must be silent."""
    assert html.count("</body>") == 1
    (folder / "report.html").write_text(html.replace("</body>", PROBE), encoding="utf-8")
    # a window cannot be as narrow as a phone, a frame can
    frame = f'<iframe src="report.html" style="width:{width}px;height:3000px;border:0"></iframe>'
    watch = (
        "<script>setInterval(() => { const note = frames[0].document.getElementById('seen');"
        " if (note && !document.getElementById('seen')) document.body.append(document.importNode(note, true)); }, 50)"
        "</script>"
    )
    (folder / "frame.html").write_text(f"<!DOCTYPE html><title>frame</title><body>{frame}{watch}", encoding="utf-8")
    done = browse(folder / "frame.html", folder / "profile", "--allow-file-access-from-files", "--dump-dom")
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert "<title>frame</title>" in done.stdout
    seen: dict[str, Any] = json.loads(Seen(re.sub(r"<script>.*?</script>", "", done.stdout, flags=re.DOTALL)).text)
    return seen


def records(methods: tuple[str, ...], **choices: Any) -> list[Record]:
    return study(methods=methods, densities=(0.1, 0.01), seeds=(0, 1), epochs=4, **choices)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser_without_errors(tmp_path: Path, width: int) -> None:
    made = records(("snip", HOSTILE), steps=(100,), ablated=ABLATIONS[:2])
    for record in made:
        write_masks(tmp_path / "runs", record)
    recipe = made[0].experiment.recipe
    made.append(failed("snip", density=0.01, seed=5, error=HOSTILE, model="resnet20", recipe=recipe))
    drawn = [(section, build_panels(section)) for section in sections(made, runs=tmp_path / "runs")]
    seen = look(page(made, problems=[("runs/x/record.json", HOSTILE)], drawn=drawn), tmp_path, width=width)
    names = [
        *("accuracy", "ablations", "pruned-later", "layer-density", "layer-width", "neuron-collapse", "structure"),
        *("mask-overlap", "convergence", "curves"),
    ]
    assert [name for name, _ in seen["plots"]] == names
    counts = dict(seen["plots"])
    assert {name: len(found) for name, found in counts.items()} == {
        **dict.fromkeys(names, 1), "ablations": 2, "structure": 3, "mask-overlap": 2, "convergence": 3, "curves": 2
    }  # fmt: skip
    assert all(min(found) >= 1 for name, found in counts.items() if name != "curves")
    assert seen["waiting"] == ["false", True, False]
    assert seen["asked"] == ["true", True, True, True]
    assert seen["gone"] == ["false", True, False]
    assert seen["tableGone"] == ["false", True, False]
    assert seen["tableBack"] == ["true", True, True]
    assert seen["buttons"] == ["Download plot as a PNG", "Reset axes"]
    # dense, snip, the hostile one, magnitude-after and ltr: a line and a band each
    assert (seen["before"], seen["after"], seen["again"]) == (10, 8, 10)
    assert set(seen["pressed"]) == {"false"}
    assert seen["caughtUp"] == ["false"]
    assert seen["ablated"] == [HOSTILE]
    assert seen["cells"] == [3, 4]
    assert (seen["none"], seen["label"]) == (0, "Show all")
    assert seen["first"] == "density 0.01 (99 % removed)"
    assert "density 0.1 (90 % removed)" in seen["chosen"]
    assert "density 0.01 (99 % removed)" not in seen["chosen"]
    assert seen["up"] == ["ascending", sorted(seen["up"][1])]
    assert seen["down"] == ["descending", sorted(seen["up"][1], reverse=True)]
    assert len(set(seen["up"][1])) > 4
    assert seen["width"] <= 0
    assert seen["overlaps"] is False
    assert seen["wide"] is False
    assert (seen["unreachable"], seen["nameless"], seen["silent"]) == (0, 0, 0)
    assert seen["headings"][0] == 1
    assert all(later - level <= 1 for level, later in itertools.pairwise(seen["headings"]))
    assert seen["pale"] == []
    assert seen["images"] == 0
    assert seen["requests"] == []
    assert seen["printed"] == 640
