// Sorting, filtering and the choice of theme. The page can be read without any of it.
"use strict";
(function () {
  const root = document.documentElement;

  // ---- theme: the system's, until the reader chooses; #light and #dark choose, too ----
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  function remembered() {
    const asked = location.hash.slice(1);
    if (themes.includes(asked)) return asked;
    try { return localStorage.getItem("report-theme") || "auto"; } catch { return "auto"; }
  }
  function show(theme) {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", theme);
    button.textContent = "Theme: " + theme;
  }
  let theme = themes.includes(remembered()) ? remembered() : "auto";
  show(theme);
  button.hidden = false;
  button.addEventListener("click", function () {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    show(theme);
    try { localStorage.setItem("report-theme", theme); } catch { /* a page opened from disk may not remember */ }
  });

  // ---- sorting: numbers from the largest, texts from A; rows without a value stay last ----
  function valueOf(row, column, isNumber) {
    const cell = row.cells[column];
    const text = cell.dataset.sort !== undefined ? cell.dataset.sort : cell.textContent.trim();
    if (!isNumber) return text === "–" ? null : text;
    const value = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(value) ? null : value;
  }
  function sort(table, heading) {
    const column = heading.cellIndex, isNumber = heading.classList.contains("num");
    const before = heading.getAttribute("aria-sort");
    const isDown = before === "none" ? isNumber : before === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, function (row) { return [valueOf(row, column, isNumber), row]; });
    rows.sort(function (left, right) {
      if (left[0] === null || right[0] === null) return (left[0] === null) - (right[0] === null);
      const order = isNumber ? left[0] - right[0] : left[0].localeCompare(right[0], undefined, { numeric: true });
      return isDown ? -order : order;
    });
    body.append(...rows.map(function (pair) { return pair[1]; }));
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", function () { sort(table, heading); });
    }
  }

  // ---- filter: a row stays when it holds every word ----
  for (const input of document.querySelectorAll("input.filter")) {
    const frame = input.closest(".table"), count = frame.querySelector(".count");
    const rows = Array.from(frame.querySelector("tbody").rows);
    const texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
    input.addEventListener("input", function () {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach(function (row, place) {
        row.hidden = !words.every(function (word) { return texts[place].includes(word); });
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = words.length ? shown + " of " + rows.length + " rows" : rows.length + " rows";
    });
  }
})();
