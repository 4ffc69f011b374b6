"""The page in a real browser: no errors, every plot drawn, switches, selector and sorting at work, nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_records import comparison, failed

from foreprune.report.page import page

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,3000", "--virtual-time-budget=8000"),
)
HOSTILE = '<img src=x onerror=document.title="owned">'

# Uses the page as a reader would and leaves what it saw in the document.
PROBE = """
<script>
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const lines = (panel) => all(`figure[data-name="${panel}"] .scatterlayer .trace`).length;
  const seen = {};
  const drawn = (panel) => [...panel.querySelectorAll(".plot")].map((plot) => plot.querySelectorAll("svg.main-svg"));
  seen.plots = all("figure.panel").map((panel) => [panel.dataset.name, drawn(panel).map((plots) => plots.length)]);
  seen.buttons = [...new Set(all(".modebar-btn").map((button) => button.dataset.title))].sort();
  seen.before = lines("accuracy");
  const key = document.querySelector('figure[data-name="curves"] .key[data-label="snip"]');
  key.click();
  seen.pressed = all('.key[data-label="snip"]').map((found) => found.getAttribute("aria-pressed"));
  seen.after = lines("accuracy");
  key.click();
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
  const column = (at) => all("tbody tr").map((row) => Number(row.children[at].dataset.value));
  const head = all("thead th")[2];
  head.querySelector("button").click();
  seen.up = [head.getAttribute("aria-sort"), column(2)];
  head.querySelector("button").click();
  seen.down = [head.getAttribute("aria-sort"), column(2)];
  seen.width = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.overlaps = all("figure.panel").some((panel) => {
    const legend = panel.querySelector(".legend").getBoundingClientRect();
    return drawn(panel).some((plots) => plots[0].getBoundingClientRect().bottom > legend.top + 1);
  });
  seen.images = document.images.length;
  const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.requests = fetched.filter((name) => !name.startsWith("data:"));
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


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_works_in_a_browser_without_errors(tmp_path: Path) -> None:
    records = comparison(methods=("snip", "synflow", HOSTILE), densities=(0.1, 0.01), seeds=(0, 1))
    recipe = records[0].experiment.recipe
    records.append(failed("snip", density=0.01, seed=5, error=HOSTILE, model="resnet20", recipe=recipe))
    html = page(records, problems=[("runs/x/record.json", HOSTILE)])
    assert html.count("</body>") == 1
    file = tmp_path / "report.html"
    file.write_text(html.replace("</body>", PROBE), encoding="utf-8")
    done = browse(file, tmp_path / "profile", "--dump-dom")
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert "<title>foreprune report</title>" in done.stdout
    seen = json.loads(Seen(re.sub(r"<script>.*?</script>", "", done.stdout, flags=re.DOTALL)).text)
    names = ["accuracy", "layer-density", "layer-width", "curves"]
    assert [name for name, _ in seen["plots"]] == names
    assert all(drawn and min(drawn) >= 1 for _, drawn in seen["plots"])
    assert [len(drawn) for _, drawn in seen["plots"]] == [1, 1, 1, 2]
    assert seen["buttons"] == ["Download plot as a PNG", "Reset axes"]
    assert (seen["before"], seen["after"], seen["again"]) == (8, 6, 8)  # each method is a line and a band
    assert seen["pressed"] == ["false"] * 4
    assert (seen["none"], seen["label"]) == (0, "Show all")
    assert seen["first"] == "density 0.01 (99 % removed)"
    assert seen["chosen"] == ["density 0.1 (90 % removed)"] * 3
    assert seen["up"] == ["ascending", sorted(seen["up"][1])]
    assert seen["down"] == ["descending", sorted(seen["up"][1], reverse=True)]
    assert len(set(seen["up"][1])) > 4
    assert seen["width"] <= 0
    assert seen["overlaps"] is False
    assert seen["images"] == 0
    assert seen["requests"] == []
