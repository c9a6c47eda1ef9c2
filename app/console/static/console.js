// All pages work without this: it shows times in the viewer's zone, moves by keys, and brings what is new.

const main = document.querySelector("#main");

function localTimes(within) {
  const shown = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  for (const time of within.querySelectorAll("time[datetime]")) {
    time.textContent = shown.format(new Date(time.dateTime));
  }
}

// Keys: / finds, j and k move from row to row, Enter opens the first link of the chosen row.
function moveBy(step) {
  const rows = [...main.querySelectorAll("table.rows tbody tr")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("chosen"));
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + step))];
  rows[at]?.classList.remove("chosen");
  next.classList.add("chosen");
  next.querySelector("a[href]")?.focus();
  next.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) return;
  const steps = { j: 1, k: -1 };
  if (event.key in steps) {
    moveBy(steps[event.key]);
  } else if (event.key === "/") {
    document.querySelector("#find")?.focus();
  } else {
    return;
  }
  event.preventDefault();
});

localTimes(document);
