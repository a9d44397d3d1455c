"use strict";

/* Charts: live, in the colors of the page; the static figure stays where one cannot be drawn. */
const NARROW = 450; // pixels
const night = matchMedia("(prefers-color-scheme: dark)");

function fitted(spec, width) {
  const style = getComputedStyle(document.documentElement);
  const [ink, paper] = ["--ink", "--paper"].map((name) => style.getPropertyValue(name).trim());
  const config = structuredClone(spec.config);
  for (const part of ["axis", "legend", "header"]) {
    config[part].labelColor = config[part].titleColor = ink;
  }
  config.title.color = config.text.color = ink;
  config.style.hollow.color = paper;
  config.legend.labelLimit = width - 80; // beside the axis and the symbol, so that no label is cut off
  if (width < NARROW) config.legend.labelFontSize = 11;
  return { ...spec, config };
}

async function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = {
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
  };
  figure.result?.finalize();
  const place = figure.querySelector(".live");
  figure.result = await vegaEmbed(place, fitted(spec, place.clientWidth), options);
  figure.classList.add("drawn");
}

function drawCharts() {
  document.querySelectorAll("figure.chart").forEach(draw);
}

/* Terms: hovering, focus or a tap shows the definition that the glossary has. */
const tip = Object.assign(document.createElement("div"), { id: "tip", role: "tooltip", hidden: true });
let hiding = 0;

function show(element, definition) {
  clearTimeout(hiding);
  tip.textContent = definition;
  tip.hidden = false;
  element.setAttribute("aria-describedby", "tip");
  const place = element.getBoundingClientRect();
  const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const below = place.bottom + tip.offsetHeight + 8 < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? place.bottom + 4 : Math.max(8, place.top - tip.offsetHeight - 4)}px`;
}

function hide() {
  tip.hidden = true;
  document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
}

function hideSoon() {
  hiding = setTimeout(hide, 200); // time to move the pointer into the definition
}

function explain(element, definition) {
  element.addEventListener("pointerenter", () => show(element, definition));
  element.addEventListener("focus", () => show(element, definition));
  element.addEventListener("pointerleave", hideSoon);
  element.addEventListener("blur", hideSoon);
}

function definition(id) {
  return document.getElementById(id)?.querySelector("dd").textContent;
}

function explainTerms() {
  document.body.append(tip);
  tip.addEventListener("pointerenter", () => clearTimeout(hiding));
  tip.addEventListener("pointerleave", hideSoon);
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", hide, { passive: true });
  for (const link of document.querySelectorAll("a.term")) {
    const text = definition(decodeURIComponent(link.hash.slice(1)));
    explain(link, text);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(link, text);
    });
  }
}

/* Tables: buttons in headers sort, a field filters rows, a hint says that a table is wider than its box. */
const MANY_ROWS = 6;

function number(text) {
  const infinite = /^([-+]?)inf/.exec(text);
  return infinite ? Number(`${infinite[1]}Infinity`) : Number.parseFloat(text);
}

function texts(table, column) {
  return [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
}

function isNumeric(table, column) {
  return texts(table, column).every((text) => text === "" || !Number.isNaN(number(text)));
}

function sort(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const numeric = isNumeric(table, column);
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // empty cells are last
    return sign * (numeric ? number(a) - number(b) || 0 : a.localeCompare(b));
  };
  const cells = texts(table, column);
  const rows = [...table.tBodies[0].rows].map((row, index) => ({ row, text: cells[index] }));
  rows.sort((a, b) => compare(a.text, b.text));
  table.tBodies[0].append(...rows.map(({ row }) => row));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
}

function filterField(table) {
  const field = Object.assign(document.createElement("input"), {
    type: "search",
    placeholder: "Filter rows",
    ariaLabel: "Filter the rows of this table",
  });
  const count = Object.assign(document.createElement("output"), { className: "count" });
  field.addEventListener("input", () => {
    const rows = [...table.tBodies[0].rows];
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  });
  const line = Object.assign(document.createElement("p"), { className: "filter" });
  line.append(field, count);
  return line;
}

function enhance(box) {
  const table = box.querySelector("table");
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => sort(table, column));
    if (!isNumeric(table, column)) {
      for (const row of table.rows) row.cells[column].classList.add("text");
    }
    const text = definition(cell.dataset.term ?? "");
    if (text) explain(button, text);
  });
  if (table.tBodies[0].rows.length > MANY_ROWS) box.before(filterField(table));
  const hint = Object.assign(document.createElement("p"), { className: "hint", hidden: true });
  hint.textContent = "This table is wider than the page: scroll it sideways →";
  box.before(hint);
  new ResizeObserver(() => {
    hint.hidden = box.scrollWidth <= box.clientWidth;
    box.tabIndex = hint.hidden && box.scrollHeight <= box.clientHeight ? -1 : 0;
  }).observe(box);
}

/* Pictures: a click shows them large; Escape or a click closes them. */
const enlarged = document.createElement("dialog");

function enlarge(picture) {
  const image = picture.cloneNode();
  const natural = Number(picture.getAttribute("width")) || picture.naturalWidth;
  const room = document.documentElement.clientWidth - 64;
  image.style.width = `${Math.max(natural, Math.min(room, 2 * natural))}px`;
  const close = Object.assign(document.createElement("button"), { textContent: "Close (Escape)" });
  const caption = Object.assign(document.createElement("p"), { textContent: picture.alt });
  const scroll = Object.assign(document.createElement("div"), { className: "picture" });
  scroll.append(image);
  enlarged.replaceChildren(close, caption, scroll);
  enlarged.showModal();
}

function enlargeOnClick(picture) {
  const button = Object.assign(document.createElement("button"), {
    type: "button",
    className: "enlarge",
    title: "Enlarge",
  });
  picture.before(button);
  button.append(picture);
  for (const side of ["width", "height"]) {
    button.style.setProperty(`--${side}`, picture.getAttribute(side));
  }
  button.addEventListener("click", () => enlarge(picture));
}

/* Sliders show one row of each strip, or one of several frames, so that the same images change. */
function slide(box) {
  const labels = JSON.parse(box.dataset.labels);
  const label = document.createElement("label");
  const slider = Object.assign(document.createElement("input"), {
    type: "range",
    min: 0,
    max: labels.length - 1,
    value: box.dataset.start,
  });
  const output = document.createElement("output");
  const update = () => {
    box.style.setProperty("--row", slider.value);
    [...box.children].forEach((part, k) => part.classList.toggle("shown", k === Number(slider.value)));
    output.textContent = slider.ariaValueText = labels[slider.value];
  };
  slider.addEventListener("input", update);
  label.className = "slider";
  label.append(box.dataset.name, slider, output);
  box.before(label);
  box.classList.add("sliding");
  update();
}

explainTerms();
document.querySelectorAll(".scroll").forEach(enhance);
document.querySelectorAll("figure:not(.chart) img").forEach(enlargeOnClick);
document.querySelectorAll(".strips, .frames").forEach(slide);
document.body.append(enlarged);
enlarged.addEventListener("click", () => enlarged.close());
if (typeof vegaEmbed !== "undefined") {
  drawCharts();
  night.addEventListener("change", drawCharts);
}
