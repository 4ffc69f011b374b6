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
    const [from, to] = axis.range;
    const place = (value) => ((axis.type === "log" ? Math.log10(value) : value) - from) / (to - from) * width;
    let free = Infinity;
    const kept = axis.tickvals.map((value, at) => [place(value), at]).sort((a, b) => b[0] - a[0])
      .filter(([x]) => { const fits = free - x >= 46; if (fits) free = x; return fits; }).map(([, at]) => at).sort((a, b) => a - b);
    axis.tickvals = kept.map((at) => axis.tickvals[at]);
    axis.ticktext = kept.map((at) => axis.ticktext[at]);
  };

  // Every panel is drawn from the page's data and the set of hidden methods, so that no state hides in the plots.
  const draw = (panel) => {
    const view = panel.querySelector("select.view")?.value ?? 0;
    const figures = charts[panel.dataset.section][panel.dataset.panel][view].charts;
    const out = hiddenIn(panel.dataset.section);
    all(panel, ".plot").forEach((plot, at) => {
      plot.hidden = at >= figures.length;
      if (plot.hidden) return;
      const data = figures[at].data.map((trace) => ({ ...trace, visible: !out.has(trace.legendgroup) }));
      const layout = structuredClone(figures[at].layout);
      thin(layout.xaxis, plot.clientWidth - 70);
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
    panel.querySelector(".legend").addEventListener("click", (event) => {
      const key = event.target.closest("button");
      if (!key) return;
      const out = hiddenIn(section);
      if (!key.classList.contains("all")) {
        if (!out.delete(key.dataset.label)) out.add(key.dataset.label);
      } else if (out.size) out.clear();
      else labels.forEach((label) => out.add(label));
      inSection(section).forEach(draw);
    });
    draw(panel);
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
  const plots = () => all(document, ".plot").filter((plot) => !plot.hidden && plot.layout);
  window.addEventListener("beforeprint", () => plots().forEach((plot) =>
    Plotly.relayout(plot, { autosize: false, height: 270, width: plot.parentElement.classList.contains("across-2") ? 310 : 640 })));
  window.addEventListener("afterprint", () => panels.forEach(draw));
})();
