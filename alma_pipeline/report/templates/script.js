"use strict";
// The page is complete without this script, which adds sorting, tabs, a filter and a theme switch.
const $ = (selector, place = document) => [...place.querySelectorAll(selector)];

const theme = document.getElementById("theme");
const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const labelTheme = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `${theme.textContent} colours`); };
theme.hidden = false;
theme.onclick = () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; labelTheme(); };
labelTheme();

const key = (cell) => { const text = cell.dataset.sort ?? cell.textContent; const number = Number(text); return text !== "" && !Number.isNaN(number) ? number : text; };
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
const sort = (table, head) => {
  const column = head.cellIndex;
  const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && column === 0);
  $("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[table.tBodies.length - 1];
  const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(key(a.cells[column]), key(b.cells[column])));
  body.append(...rows);
};
for (const table of $("table.sortable")) {
  for (const head of $("thead th", table)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.onclick = () => sort(table, head);
    head.append(button);
  }
}

const boards = $(".board");
const tabs = $(".tabs")[0];
if (boards.length > 1) {
  const show = (place) => boards.forEach((board, at) => {
    board.hidden = at !== place;
    tabs.children[at].setAttribute("aria-selected", at === place);
    tabs.children[at].tabIndex = at === place ? 0 : -1;
  });
  boards.forEach((board, at) => {
    const tab = document.createElement("button");
    Object.assign(tab, { type: "button", textContent: board.dataset.tab, onclick: () => show(at) });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", board.id);
    board.setAttribute("role", "tabpanel");
    board.setAttribute("aria-label", board.dataset.tab);
    tabs.append(tab);
  });
  tabs.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = ([...tabs.children].indexOf(document.activeElement) + step + boards.length) % boards.length;
    show(next);
    tabs.children[next].focus();
  };
  tabs.hidden = false;
  show(0);
}

const pValues = document.getElementById("show-p");
if ($(".p").length) {
  pValues.hidden = false;
  pValues.onclick = () => pValues.setAttribute("aria-pressed", document.getElementById("scores").classList.toggle("with-p"));
}

const choice = document.getElementById("direction");
if (choice) {
  document.getElementById("filter").hidden = false;
  const filter = () => $(".sample").forEach((sample) => { sample.hidden = Boolean(choice.value) && sample.dataset.direction !== choice.value; });
  choice.onchange = filter;
  choice.selectedIndex = Math.min(1, choice.options.length - 1);
  filter();
}

const open = () => { const found = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1))); if (found?.tagName === "DETAILS") found.open = true; };
addEventListener("hashchange", open);
open();
