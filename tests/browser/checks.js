/* What must hold for the text of a page: but for `settled`, functions return a description of each fault. */
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const pen = canvas.getContext("2d", { willReadFrequently: true });

/** Red, green, blue and opacity in [0, 1] of any color of CSS. */
function rgba(color) {
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = color;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
}

function over(front, back) {
  return [0, 1, 2].map((k) => front[3] * front[k] + (1 - front[3]) * back[k]).concat(1);
}

/** Relative luminance, WCAG 2.2. */
function luminance(color) {
  const [red, green, blue] = color.map((v) =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function style(element) {
  return getComputedStyle(element);
}

function scrolls(element) {
  return ["auto", "scroll"].includes(style(element).overflowX);
}

function ancestors(element) {
  const chain = [];
  for (let e = element; e; e = e.parentElement) chain.push(e);
  return chain;
}

/** The color behind an element: backgrounds of its ancestors over the canvas of the page. */
function background(element) {
  const chain = ancestors(element).map((e) => rgba(style(e).backgroundColor));
  const dark = style(document.documentElement).colorScheme.includes("dark")
    && matchMedia("(prefers-color-scheme: dark)").matches;
  const root = dark ? [0.07, 0.07, 0.07, 1] : [1, 1, 1, 1];
  return chain.reverse().reduce((back, front) => over(front, back), root);
}

/** Text nodes that can be seen, with their element and rectangle. */
function* texts() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, noscript")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.width > 1 && box.height > 1) yield { element, box, text: node.data.trim() };
  }
}

function describe(element, text, what) {
  const name = element.tagName.toLowerCase() + [...element.classList].map((c) => `.${c}`).join("");
  return `${name} "${text.slice(0, 50)}": ${what}`;
}

function opacity(element) {
  return ancestors(element).reduce((product, e) => product * style(e).opacity, 1);
}

window.checks = {
  /** Wait until charts are drawn, and for a fifth of a second without a new drawing. */
  async settled() {
    const drawing = () => document.querySelector("figure.chart:not(.drawn)") ? null
      : [...document.querySelectorAll(".live")].map((live) => live.innerHTML).join();
    for (let last = null, since = performance.now(); performance.now() < since + 200; ) {
      await new Promise((done) => requestAnimationFrame(done));
      const now = drawing();
      if (now === null || now !== last) since = performance.now();
      last = now;
    }
  },

  /** Text whose contrast is below 4.5, the limit of WCAG 2.2 level AA. */
  contrast() {
    const faults = [];
    const compare = (element, color, text) => {
      const back = background(element);
      const front = rgba(color);
      front[3] *= opacity(element);
      const ratio = contrast(over(front, back), back);
      if (ratio < 4.5) faults.push(describe(element, text, `contrast ${ratio.toFixed(2)}`));
    };
    for (const { element, text } of texts()) {
      compare(element, element.closest("svg") ? style(element).fill : style(element).color, text);
    }
    for (const input of document.querySelectorAll("input[placeholder]")) {
      compare(input, getComputedStyle(input, "::placeholder").color, input.placeholder);
    }
    return faults;
  },

  /** Text that leaves its drawing, its box, or the window, where nothing scrolls to it. */
  clipped() {
    const faults = [];
    for (const { element, box, text } of texts()) {
      const drawing = element.closest("svg");
      const block = drawing ?? ancestors(element).find((e) => !style(e).display.startsWith("inline"));
      const limit = ancestors(element).find((e) => e !== drawing && e !== document.body
        && e !== document.documentElement && style(e).overflowX !== "visible");
      const own = block.getBoundingClientRect();
      const end = limit?.getBoundingClientRect().right ?? innerWidth;
      if (drawing && (box.left < own.left - 1 || box.top < own.top - 1 || box.bottom > own.bottom + 1)) {
        faults.push(describe(element, text, "leaves its drawing"));
      } else if (box.right > own.right + 1 && !scrolls(block)) {
        faults.push(describe(element, text, `is ${Math.round(box.right - own.right)} px too wide`));
      } else if (box.right > end + 1 && !(limit && scrolls(limit))) {
        faults.push(describe(element, text, "is cut off at the right"));
      }
    }
    return faults;
  },

  /** What makes the page wider than the window. */
  wide() {
    const root = document.documentElement;
    if (root.scrollWidth <= innerWidth) return [];
    const widest = [...document.body.querySelectorAll("*")].filter((e) =>
      e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll > *"));
    return [`page of ${root.scrollWidth} px in a window of ${innerWidth}`]
      .concat(widest.slice(0, 5).map((e) => describe(e, e.textContent, "is too wide")));
  },

  /** Charts of which an axis with labels has no title. */
  untitled() {
    const faults = [];
    for (const figure of document.querySelectorAll("figure.chart")) {
      for (const axis of figure.querySelectorAll(".live .role-axis")) {
        if (!axis.querySelector(".role-axis-label text")) continue;
        const title = axis.querySelector(".role-axis-title text");
        if (!title?.textContent.trim()) {
          faults.push(describe(figure, figure.innerText, "has an axis without a title"));
        }
      }
    }
    return faults;
  },
};
