"use strict";
// The page reads without this: it adds sorting and filtering to tables, and values to figures.

const make = (name, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(name), fields);
  element.append(...children);
  return element;
};

// What a cell is sorted by: a number where the whole column is of numbers, else its text. Empty cells come last.
const sorted = (rows, column, down) => {
  const text = (row) => row.cells[column].textContent.trim();
  const numeric = rows.every((row) => text(row) === "" || Number.isFinite(Number(text(row))));
  const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
  return [...rows].sort((a, b) => {
    const [x, y] = [text(a), text(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return down ? compare(y, x) : compare(x, y);
  });
};

for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const status = make("span", { className: "note" });
  status.setAttribute("role", "status");
  heads.forEach((head, column) => {
    const name = head.querySelector(".name");
    const button = make("button", { type: "button" }, ...name.childNodes);
    name.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...sorted(rows, column, down));
    });
  });
  const input = make("input", { type: "search", placeholder: "words that a row has" });
  const bar = make("div", { className: "filter" }, make("label", {}, "Filter rows ", input), status);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    let shown = 0;
    for (const row of rows) {
      const cells = [...row.cells].map((cell) => cell.textContent.trim().toLowerCase());
      row.hidden = !words.every((word) => cells.some((cell) => cell.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    status.textContent = words.length === 0 ? "" : `${shown} of ${rows.length} rows`;
  });
  table.closest(".scroll").before(bar);
}

const tip = make("div", { id: "tip", hidden: true });
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

const show = (point) => {
  tip.textContent = point.getAttribute("aria-label");
  tip.hidden = false;
  const [at, size] = [point.getBoundingClientRect(), tip.getBoundingClientRect()];
  const left = Math.min(at.right + 8, innerWidth - size.width - 8);
  const above = at.top - size.height - 8;
  tip.style.left = `${Math.max(left, 8)}px`;
  tip.style.top = `${above < 4 ? at.bottom + 8 : above}px`;
};
const hide = () => {
  tip.hidden = true;
};

for (const svg of document.querySelectorAll("figure svg")) {
  const points = [...svg.querySelectorAll(".pt")];
  for (const point of points) {
    const title = point.querySelector("title");
    point.setAttribute("aria-label", title.textContent.trim());
    point.setAttribute("role", "img");
    point.setAttribute("tabindex", "-1");
    // The browser's own tooltip would come on top of ours.
    title.remove();
  }
  // One stop of the Tab key for a figure; arrows go from point to point.
  points[0]?.setAttribute("tabindex", "0");
  svg.addEventListener("pointerover", (event) => {
    const point = event.target.closest(".pt");
    if (point) show(point);
    else hide();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focusin", (event) => show(event.target.closest(".pt")));
  svg.addEventListener("focusout", hide);
  svg.addEventListener("keydown", (event) => {
    const at = points.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: points.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (at < 0 || to === undefined || points[to] === undefined) return;
    event.preventDefault();
    points[at].setAttribute("tabindex", "-1");
    points[to].setAttribute("tabindex", "0");
    points[to].focus();
  });
}
addEventListener("scroll", hide, { passive: true });
