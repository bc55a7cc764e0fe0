"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)");
  const config = { displayModeBar: false, responsive: true };

  // Colours of text and hovers are the page's; on paper they are those of print.
  const theme = (paper) => {
    const style = getComputedStyle(document.documentElement);
    const ink = paper ? "#000" : style.getPropertyValue("--ink").trim();
    const hover = paper ? "#fff" : style.getPropertyValue("--hover").trim();
    return { "font.color": ink, "hoverlabel.bgcolor": hover, "hoverlabel.font.color": ink };
  };

  const set = (layout, changes) => {
    for (const [path, value] of Object.entries(changes)) {
      const keys = path.split(".");
      const last = keys.pop();
      keys.reduce((at, key) => (at[key] ??= {}), layout)[last] = value;
    }
    return layout;
  };

  const draw = (element, figure) => {
    const layout = set(structuredClone(figure.layout), theme(false));
    // A finger scrolls; a mouse may also zoom, and a double click takes it back.
    if (fine.matches && !layout.xaxis?.fixedrange) layout.dragmode = "zoom";
    if (element.clientWidth < 560) {
      layout.font.size = 11;
      if (layout.meta?.narrow) layout.xaxis.range = layout.meta.narrow;
    }
    return Plotly.react(element, figure.data, layout, config).then(() => {
      element.removeAllListeners?.("plotly_click");
      element.on?.("plotly_click", (event) => {
        const anchor = event.points[0]?.customdata;
        const target = typeof anchor === "string" && document.getElementById(anchor);
        if (target) {
          target.open = true;
          target.scrollIntoView({ block: "nearest" });
        }
      });
    });
  };

  // Between two plots the page may scroll.
  const pause = () => new Promise((done) => { setTimeout(done); });

  const drawAll = (figures, root = document) =>
    Object.entries(figures).reduce(
      (before, [key, figure]) =>
        before.then(pause).then(() => {
          const element = root.querySelector("#" + CSS.escape(key));
          return element ? draw(element, figure) : undefined;
        }),
      Promise.resolve(),
    );

  const recolour = (paper) => {
    for (const element of document.querySelectorAll(".plot.js-plotly-plot")) {
      Plotly.relayout(element, theme(paper));
    }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  dark.addEventListener("change", () => recolour(false));
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.fold")) fold.open = true;
    recolour(true);
  });
  addEventListener("afterprint", () => recolour(false));

  window.ridgeline = { drawAll };
  const carried = document.getElementById("ridgeline-figures");
  if (carried) {
    drawAll(JSON.parse(carried.textContent)).then(() => {
      document.documentElement.dataset.drawn = "yes";
    });
  }
})();
