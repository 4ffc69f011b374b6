"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const touch = window.matchMedia("(pointer: coarse)").matches;
  // Buttons are listed, not removed: plotly.js has one that uploads the chart, and later ones may do as much.
  const config = { responsive: true, displaylogo: false, doubleClick: "reset", plotlyServerURL: "",
    modeBarButtons: [["toImage", "resetScale2d"]] };
  const hidden = new Map();
  const panels = [...document.querySelectorAll("figure.panel")];
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  const inSection = (index) => panels.filter((panel) => panel.dataset.section === index);
  const hiddenIn = (index) => hidden.get(index) ?? hidden.set(index, new Set()).get(index);

  // Leaves out labels of an axis that would run into each other at this width, from the right.
  const thin = (axis, width) => {
    if (!axis.tickvals || !axis.range || axis.tickangle) return;
    const longest = Math.max(...axis.ticktext.flatMap((text) => text.split("<br>")).map((text) => text.length));
    const space = Math.max(46, 8 * longest);
    const [from, to] = axis.range;
    const place = (value) => ((axis.type === "log" ? Math.log10(value) : value) - from) / (to - from) * width;
    let free = Infinity;
    const kept = axis.tickvals.map((value, at) => [place(value), at]).sort((a, b) => b[0] - a[0])
      .filter(([x]) => { const fits = free - x >= space; if (fits) free = x; return fits; }).map(([, at]) => at).sort((a, b) => a - b);
    axis.tickvals = kept.map((at) => axis.tickvals[at]);
    axis.ticktext = kept.map((at) => axis.ticktext[at]);
  };

  // Of a heatmap, the rows and columns of hidden methods are left out.
  const without = (trace, out, width) => {
    const kept = trace.meta.map((name, at) => [name, at]).filter(([name]) => !out.has(name)).map(([, at]) => at);
    const texts = width / kept.length < 52 ? "" : trace.texttemplate;  // numbers too small to read are left to the hover
    const square = (rows) => kept.map((row) => kept.map((column) => rows[row][column]));
    return { ...trace, texttemplate: texts, x: kept.map((at) => trace.x[at]), y: kept.map((at) => trace.y[at]),
      z: square(trace.z), text: square(trace.text), hovertext: square(trace.hovertext) };
  };

  // Every panel is drawn from the page's data and the set of hidden methods, so that no state hides in the plots.
  // One that is switched off is drawn when it is switched on.
  const stale = new Set();
  const draw = (panel, { paper = false } = {}) => {
    if (panel.hidden) return stale.add(panel);
    stale.delete(panel);
    const view = panel.querySelector("select.view")?.value ?? 0;
    const figures = charts[panel.dataset.section][panel.dataset.panel][view]?.charts ?? [];
    const out = hiddenIn(panel.dataset.section);
    all(panel, ".plot").forEach((plot, at) => {
      plot.hidden = at >= figures.length || out.has(figures[at].layout.meta);
      if (plot.hidden) return;
      const width = paper ? (plot.parentElement.classList.contains("across-1") ? 640 : 310) : plot.clientWidth;
      const data = figures[at].data.map((trace) => trace.type === "heatmap" ? without(trace, out, paper ? Infinity : width)
        : { ...trace, visible: !out.has(trace.legendgroup) });
      const layout = structuredClone(figures[at].layout);
      thin(layout.xaxis, width - 96);
      if (paper) Object.assign(layout, { autosize: false, width, height: Math.max(270, layout.height * 0.75) });
      if (touch) {  // a finger on a plot scrolls the page
        layout.dragmode = false;
        layout.xaxis.fixedrange = layout.yaxis.fixedrange = true;
      }
      Plotly.react(plot, data, layout, { ...config, displayModeBar: touch ? false : "hover" });
    });
    all(panel, ".key").forEach((key) => key.setAttribute("aria-pressed", String(!out.has(key.dataset.label))));
    const button = panel.querySelector(".all");
    if (button) button.textContent = out.size ? "Show all" : "Hide all";
  };

  // Panels are drawn one after the other, from the top, with pauses in which the page answers; then it says so.
  const drawNext = () => {
    const panel = panels.find((found) => stale.has(found) && !found.hidden);
    if (panel) draw(panel);
    if (panel) setTimeout(drawNext, 0);
    else document.documentElement.dataset.drawn = "true";
  };

  for (const panel of panels) {
    const section = panel.dataset.section;
    const labels = all(panel, ".key").map((key) => key.dataset.label);
    panel.querySelector("select.view")?.addEventListener("change", (event) => {
      const chosen = event.target.selectedOptions[0].text;
      for (const other of inSection(section)) {
        const select = other.querySelector("select.view");
        const match = select && [...select.options].find((option) => option.text === chosen);
        if (match) select.value = match.value;
        if (match) draw(other);
      }
    });
    panel.querySelector(".legend")?.addEventListener("click", (event) => {
      const key = event.target.closest("button");
      if (!key) return;
      const out = hiddenIn(section);
      if (!key.classList.contains("all")) {
        if (!out.delete(key.dataset.label)) out.add(key.dataset.label);
      } else if (out.size) out.clear();
      else labels.forEach((label) => out.add(label));
      inSection(section).forEach((other) => draw(other));
    });
    stale.add(panel);
  }
  drawNext();

  for (const button of all(document, ".switch")) {
    button.addEventListener("click", () => {
      const part = document.getElementById(button.getAttribute("aria-controls"));
      part.hidden = !part.hidden;
      button.setAttribute("aria-pressed", String(!part.hidden));
      if (stale.has(part)) draw(part);
    });
  }

  for (const table of all(document, "table.sortable")) {
    const heads = all(table, "thead th");
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => Number(row.children[column].dataset.value);
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b)));
      table.tBodies[0].append(...rows);
    }));
  }

  // Paper is narrower than most screens: plots are drawn at its width for printing and at their own afterwards.
  const shown = () => panels.filter((panel) => !panel.hidden);
  window.addEventListener("beforeprint", () => shown().forEach((panel) => draw(panel, { paper: true })));
  window.addEventListener("afterprint", () => shown().forEach((panel) => draw(panel)));
})();
