"use strict";

/* Charts: live, in the colors of the page; the static figure stays where one cannot be drawn. */
const dark = matchMedia("(prefers-color-scheme: dark)");

function inColorsOfThePage(spec) {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  const config = structuredClone(spec.config);
  for (const part of ["axis", "legend", "header"]) {
    config[part].labelColor = config[part].titleColor = ink;
  }
  config.title.color = config.text.color = ink;
  return { ...spec, config };
}

async function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = {
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
  };
  figure.result?.finalize();
  figure.result = await vegaEmbed(figure.querySelector(".live"), inColorsOfThePage(spec), options);
  figure.classList.add("drawn");
}

function drawCharts() {
  document.querySelectorAll("figure.chart").forEach(draw);
}

drawCharts();
dark.addEventListener("change", drawCharts);
