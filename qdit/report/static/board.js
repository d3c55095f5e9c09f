"use strict";
(() => {
  // Sorting: within each body of a table, by the number a cell begins with or by its words; a third time as it was.
  const text = (cell) => {
    const copy = cell.cloneNode(true);
    for (const small of copy.querySelectorAll("small")) small.remove();
    return copy.textContent.trim();
  };
  const key = (row, column) => {
    const words = row.cells[column] ? text(row.cells[column]) : "";
    const plain = words.replace(/[≈\s]/g, "").replace(/−/g, "-");
    const number = /^[+±-]?[0-9]/.test(plain) ? Number.parseFloat(plain.replace(/^[+±]/, "")) : NaN;
    return { words, number };
  };
  const empty = (value) => value.words === "" || value.words === "–";
  const compare = (a, b, direction) => {
    if (empty(a) || empty(b)) return Number(empty(a)) - Number(empty(b));
    const numbers = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    if (!numbers && Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
    return direction * (numbers ? a.number - b.number : a.words.localeCompare(b.words));
  };
  const sort = (table, heading) => {
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    const order = next[heading.getAttribute("aria-sort")];
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order);
    table.classList.toggle("sorted", order !== "none");
    const column = Number(heading.dataset.sort);
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("block"));
      const position = (row) => Number(row.dataset.position);
      if (order === "none") rows.sort((a, b) => position(a) - position(b));
      else {
        const direction = order === "ascending" ? 1 : -1;
        const keys = new Map(rows.map((row) => [row, key(row, column)]));
        rows.sort((a, b) => compare(keys.get(a), keys.get(b), direction) || position(a) - position(b));
      }
      body.append(...rows);
    }
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const body of table.tBodies) [...body.rows].forEach((row, position) => { row.dataset.position = position; });
    for (const heading of table.querySelectorAll("th[data-sort]")) {
      const control = document.createElement("button");
      control.type = "button";
      control.append(...heading.childNodes);
      control.title = `Sort by ${heading.dataset.label.trim()}`;
      control.setAttribute("aria-label", control.title);
      heading.append(control);
      heading.setAttribute("aria-sort", "none");
      control.addEventListener("click", () => sort(table, heading));
    }
  }

  // Filter: rows whose words, with those of their block, hold every word that was typed.
  for (const table of document.querySelectorAll("table.rows")) {
    const lines = [...table.tBodies].map((body) => [...body.rows].filter((row) => !row.classList.contains("block")));
    if (lines.flat().length < 12) continue;
    const field = document.createElement("input");
    field.type = "search";
    field.className = "filter";
    field.placeholder = "Show rows with … (q-dit w4a8)";
    field.setAttribute("aria-label", "Show only rows that hold these words");
    const count = document.createElement("span");
    count.className = "muted count";
    count.setAttribute("aria-live", "polite");
    table.closest(".board").prepend(field, count);
    const fold = (words) => words.toLowerCase().replace(/[-+]/g, "").replace(/\s+/g, " ");
    const known = new Map();
    for (const [number, rows] of lines.entries()) {
      const title = table.tBodies[number].querySelector("tr.block")?.textContent || "";
      for (const row of rows) {
        const cells = [...row.cells].filter((cell) => cell.matches("th, .verdict"));
        known.set(row, fold([title, ...cells.map((cell) => cell.textContent)].join(" ")));
      }
    }
    field.addEventListener("input", () => {
      const words = fold(field.value).split(" ").filter(Boolean);
      let left = 0;
      for (const [number, rows] of lines.entries()) {
        let of_block = 0;
        for (const row of rows) {
          row.hidden = !words.every((word) => known.get(row).includes(word));
          of_block += Number(!row.hidden);
        }
        table.tBodies[number].hidden = of_block === 0;
        left += of_block;
      }
      table.classList.toggle("filtered", words.length > 0);
      count.textContent = words.length ? `${left} of ${known.size} rows` : "";
    });
  }
})();
