// Sorting, filtering and legends. Everything on the page can be read without this script.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  for (const button of all(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      document.getElementById(button.dataset.series).toggleAttribute("hidden", !shown);
    });
  }

  const unsure = document.getElementById("unsure");
  if (unsure) {
    const apply = () => document.body.classList.toggle("all", unsure.checked);
    unsure.addEventListener("change", apply);
    apply();
  }

  const table = document.getElementById("board");
  if (!table) return;
  const groups = all("tbody", table);
  const heads = all("thead th", table);
  const valueOf = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();

  // Rows are sorted within their ranking and never across: figures on different stories have no common order.
  const sort = (column, direction) => {
    const numeric = heads[column].dataset.kind === "number";
    for (const group of groups) {
      if (numeric && group.dataset.ranked === "no") continue;
      const rows = all("tr:not(.group)", group);
      const places = new Map(rows.map((row, place) => [row, place]));
      rows.sort((a, b) => {
        const [x, y] = [valueOf(a, column), valueOf(b, column)];
        // Empty cells stand last in both directions.
        if (x === "" || y === "") return (x === "") - (y === "") || places.get(a) - places.get(b);
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
        return order * direction || places.get(a) - places.get(b);
      });
      group.append(...rows);
    }
    heads.forEach((head, place) => {
      if (head.hasAttribute("aria-sort"))
        head.setAttribute("aria-sort", place !== column ? "none" : direction > 0 ? "ascending" : "descending");
    });
  };
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const first = head.dataset.kind === "number" ? "descending" : "ascending";
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      sort(column, next === "ascending" ? 1 : -1);
    });
  });

  const search = document.getElementById("search");
  const data = document.getElementById("data");
  const origin = document.getElementById("origin");
  const count = document.getElementById("count");
  const total = all("tbody tr:not(.group)", table).length;
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of groups) {
      const fits = (!data.value || data.value === group.dataset.data) && (!origin.value || origin.value === group.dataset.origin);
      const title = group.querySelector("tr.group").textContent.toLowerCase();
      let here = 0;
      for (const row of all("tr:not(.group)", group)) {
        const text = `${title} ${row.textContent.toLowerCase()}`;
        const visible = fits && words.every((word) => text.includes(word));
        row.hidden = !visible;
        here += visible;
      }
      group.hidden = here === 0;
      shown += here;
    }
    count.textContent = `${shown} of ${total} rows`;
  };
  for (const control of [search, data, origin]) control.addEventListener("input", filter);
  filter();
})();
