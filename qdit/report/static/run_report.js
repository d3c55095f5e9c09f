"use strict";
(() => {
  const root = document.documentElement;
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a file may not store */ } };
  const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  // Theme: the system's until the reader chooses.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const label = () => {
    const other = theme() === "dark" ? "light" : "dark";
    button.textContent = theme() === "dark" ? "☀" : "☾";
    button.setAttribute("aria-label", `Change to the ${other} theme`);
    button.title = `Change to the ${other} theme`;
  };
  const stored = recall("qdit-theme");
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    remember("qdit-theme", root.dataset.theme);
    label();
  });
  dark.addEventListener("change", label);
  label();

  // Small below a value: its difference to full precision, or to the paper.
  for (const choice of document.querySelectorAll("input[name=small]")) {
    choice.addEventListener("change", () => { document.body.dataset.small = choice.value; });
    if (choice.checked) document.body.dataset.small = choice.value;
  }

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

  // A link to something inside a folded part opens it; paper shows all of it.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    let folded = target.closest("details");
    if (!folded) return;
    for (; folded; folded = folded.parentElement.closest("details")) folded.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  reveal();
  const opened = new Set();
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details:not([open])")) { folded.open = true; opened.add(folded); }
  });
  window.addEventListener("afterprint", () => {
    for (const folded of opened) folded.open = false;
    opened.clear();
  });

  // Where the reader is.
  const links = new Map([...document.querySelectorAll("nav a[href^='#']")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((seen) => {
    for (const entry of seen) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      const link = links.get(entry.target.id);
      link.setAttribute("aria-current", "true");
      const box = link.closest("nav");
      box.scrollLeft = link.offsetLeft - (box.clientWidth - link.offsetWidth) / 2;
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) watch.observe(section);
  }
})();
