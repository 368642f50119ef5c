// Functions of the checks of the status page (status_page.rs). They run in front of the script of the page.

window.injected = [];
window.alert = (text) => injected.push(text);

// The page asks ten times as often.
const later = window.setTimeout;
window.setTimeout = (call, time) => later(call, time / 10);

// Tables are found by their captions, rows by their numbers, cells by the titles of their columns.
const table = (caption) => [...document.querySelectorAll("table")].find((item) => item.caption.textContent.startsWith(caption));
const rows = (caption) => [...table(caption).querySelectorAll("tbody tr:has(> th)")];
const cell = (row, title) => row.querySelector(`[data-label="${title}"]`);
const texts = (caption) => rows(caption).map((row) => [...row.children].map((item) => item.innerText));
const number = (caption, row, title) => Number(cell(rows(caption)[row], title).textContent.replaceAll(",", ""));
const tile = (title) => [...document.querySelectorAll("#tiles dt")].find((item) => item.textContent === title).nextSibling;
const path = (style) => document.querySelector(`figure .plot path.${style}`).getAttribute("d");
const button = () => document.querySelector("#calls button");
const stack = () => document.querySelector("#calls pre").textContent;

// What a checker of accessibility looks at first.
function accessibilityFaults() {
  const faults = [];
  const expect = (holds, text) => holds || faults.push(text);
  expect(document.documentElement.lang === "en", "no language");
  expect(document.querySelectorAll("h1").length === 1, "not one h1");
  for (const item of document.querySelectorAll("table")) {
    expect(item.caption.textContent, "a table without a caption");
    for (const head of item.querySelectorAll("th")) expect(head.scope, `no scope: ${head.textContent}`);
  }
  for (const item of document.querySelectorAll("button, a")) expect(item.ariaLabel || item.textContent, "a button without a name");
  for (const item of document.querySelectorAll("svg")) {
    expect(item.getAttribute("role") === "img" ? item.ariaLabel : item.ariaHidden === "true", "an svg without text");
  }
  const ids = [...document.querySelectorAll("[id]")].map((item) => item.id);
  expect(new Set(ids).size === ids.length, "an id is there twice");
  expect(document.querySelectorAll("[tabindex]:not([tabindex='0'])").length === 0, "an order of the focus");
  expect(document.getElementById("state").getAttribute("role") === "status", "no live region");
  return faults;
}

// Texts whose contrast is below what WCAG 2 asks for (level AA, 1.4.3).
function contrast() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).map((value) => value / 255).map((value) =>
      value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    return channels(color)[3] === 0 ? background(node.parentElement) : color;
  };
  const poor = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    const [a, b] = [getComputedStyle(node).color, background(node)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.add(`${walker.currentNode.data}: ${ratio.toFixed(2)}`);
    count++;
  }
  const dark = luminance(background(document.body)) < 0.1;
  return { poor: [...poor], count, dark };
}
