"use strict";
// Makes the columns of a table sortable. It only moves rows and never writes markup.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  heads.forEach((head, column) => {
    if (head.hasAttribute("data-fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const numeric = head.classList.contains("n");
      const compare = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (!numeric) return up ? x.localeCompare(y) : y.localeCompare(x);
        return up ? x - y : y - x;
      };
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort(compare));
    });
  });
  table.setAttribute("data-sortable", "ready");
}
