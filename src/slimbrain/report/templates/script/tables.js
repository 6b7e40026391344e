// Tables that sort by the column whose head is pressed; rows that add up the others stay last.

function makeSortable(table) {
  const status = document.createElement("span");
  status.className = "unseen";
  status.setAttribute("role", "status");
  table.parentElement.append(status);
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      sortRows(table, column, head.classList.contains("number"), ascending);
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      status.textContent = `Sorted by ${button.textContent}, ${ascending ? "ascending" : "descending"}.`;
    });
  });
}

function sortRows(table, column, numeric, ascending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].filter((row) => !row.classList.contains("total"));
  const totals = [...body.rows].filter((row) => row.classList.contains("total"));
  const keys = new Map(rows.map((row) => [row, sortKey(row.cells[column].textContent, numeric)]));
  rows.sort((one, other) => compare(keys.get(one), keys.get(other), ascending));
  body.append(...rows, ...totals);
}

function sortKey(text, numeric) {
  if (!numeric) return text.trim();
  const found = text.replace(/,/g, "").replace(/\u2212/g, "-").match(/-?\d+(\.\d+)?(e[+-]?\d+)?/i);
  return found ? Number(found[0]) : null;
}

// What is not known comes last, whichever way one sorts.
function compare(one, other, ascending) {
  if (one === null || other === null) return (one === null) - (other === null);
  const order = typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true });
  return ascending ? order : -order;
}
