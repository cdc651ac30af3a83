// Sizes, counts and durations as the tables write them: 900 kB < 1.2 GB, 850k < 2.54M, 45.0 s < 4.5 min.
const UNITS = {k: 1e3, M: 1e6, G: 1e9, T: 1e12, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, ms: 1e-3, min: 60, h: 3600};
const numberIn = (text) => {
  const found = /^([-+]?[\d.,]+(?:e[-+]?\d+)?) ?([a-zA-Z]*)/.exec(text);
  return found ? parseFloat(found[1].replace(/,/g, "")) * (UNITS[found[2]] ?? 1) : NaN;
};
document.querySelectorAll("th button").forEach((button) => {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const table = head.closest("table");
    const isNumber = head.classList.contains("n");  // elsewhere digits are a name: of a config, of a commit
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = Array.from(table.tBodies[0].rows, (row) => {
      const text = row.cells[head.cellIndex].textContent.trim();
      return {row: row, text: text, value: isNumber ? numberIn(text) : 0};
    });
    keyed.sort((a, b) => {
      if (Number.isNaN(a.value) || Number.isNaN(b.value)) {  // what is not known stands last, both ways
        return Number.isNaN(a.value) - Number.isNaN(b.value);
      }
      const order = isNumber ? a.value - b.value : a.text < b.text ? -1 : a.text > b.text ? 1 : 0;
      return up ? order : -order;
    });
    table.tBodies[0].append(...keyed.map((each) => each.row));
  });
});
