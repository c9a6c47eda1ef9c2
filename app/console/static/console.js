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

// Live: what a page marks is fetched anew from the page's own address, soon after an event and otherwise every five
// seconds, while the tab is seen. Content of `data-live` is swapped. In a list, `data-tail="event events"`, nothing moves:
// it is said how many rows are new, and a button shows them. A row is known by its first link. Both need an id. As the
// address decides what is shown, nothing is missing or there twice, wherever the receiver was meanwhile.
// Mark nothing whose reading the audit keeps.
//
// Ten consoles must not slow the receiver down. Their requests have turns behind webhooks, so a busy receiver answers
// late, and each console rests for twenty times as long as its answer took. It leaves the stream at the first event and
// joins it again after the rest, so that a thousand events cost as much as one. A tab that nobody sees asks for nothing.
const SOON = 2000; // milliseconds
const OTHERWISE = 5000;
const LONGEST = 60000;
const RESTS = 20;

const marked = [...document.querySelectorAll("[data-live], [data-tail]")];
const served = new Map(marked.map((element) => [element.id, element.innerHTML]));
let stream = null;
let joining = 0;
let asking = null;
let planned = 0;
let wanted = false;
let freeAt = 0;
let notice = null;

function plan() {
  clearTimeout(planned);
  planned = setTimeout(renew, Math.max(wanted ? 0 : OTHERWISE, freeAt - performance.now()));
}

function join() {
  stream = new EventSource("/console/stream");
  stream.onmessage = () => {
    leave();
    wanted = true;
    if (!asking) plan();
  };
}

function leave() {
  clearTimeout(joining);
  stream?.close();
  stream = null;
}

function stop() {
  leave();
  clearTimeout(planned);
  asking?.abort();
  asking = null;
}

async function renew() {
  const began = performance.now();
  const { signal } = (asking = new AbortController());
  wanted = false;
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (answer.redirected) {
      stop();
      say("You are signed out. Load this page again to sign in.");
      return;
    }
    if (answer.ok) take(fresh);
    say(answer.ok ? null : `Not renewed since ${clock()}: the receiver answers ${answer.status}.`);
  } catch (error) {
    if (signal.aborted) return;
    say(`Not connected since ${clock()}.`);
  }
  asking = null;
  const rest = Math.min(LONGEST, Math.max(SOON, RESTS * (performance.now() - began)));
  freeAt = performance.now() + rest;
  if (!stream || stream.readyState === EventSource.CLOSED) {
    leave();
    joining = setTimeout(join, rest);
  }
  plan();
}

function clock() {
  return new Date().toLocaleTimeString("sv-SE");
}

// The notice stays as it began until all is well again.
function say(what) {
  if (what === null) {
    notice?.remove();
    notice = null;
  } else if (notice === null) {
    notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "status");
    document.body.append(notice);
    notice.textContent = what;
  }
}

function take(fresh) {
  document.title = fresh.title;
  for (const element of marked) {
    const found = fresh.getElementById(element.id);
    if (!found) continue;
    if ("tail" in element.dataset) {
      announce(element, found);
    } else if (found.innerHTML !== served.get(element.id) && !isInUse(element)) {
      served.set(element.id, found.innerHTML);
      swap(element, found);
    }
  }
}

// Whether somebody types in it, has filled something in, or has selected text.
function isInUse(element) {
  const isFilledIn = (field) =>
    field.tagName === "SELECT"
      ? field.selectedIndex > 0 && !field.selectedOptions[0].defaultSelected
      : field.value !== field.defaultValue || field.checked !== field.defaultChecked;
  const fields = [...element.querySelectorAll("input:not([type=hidden]), textarea, select")];
  const selected = getSelection();
  return (
    fields.some((field) => field === document.activeElement || isFilledIn(field)) ||
    (!selected.isCollapsed && selected.containsNode(element, true))
  );
}

// Keeps what one has unfolded, chosen and focused, and how far one has scrolled.
function swap(element, fresh) {
  const all = (selector) => [...element.querySelectorAll(selector)];
  const foldOf = (node) => node.closest("details")?.querySelector("summary")?.textContent.trim();
  const nameOf = (node) => JSON.stringify([
    node.tagName, node.id, node.getAttribute("href"), node.getAttribute("name"), foldOf(node), keyOf(node.closest("tr")),
  ]);
  const folds = new Map(all("details").map((each) => [nameOf(each), each.open]));
  const chosen = keyOf(element.querySelector("tr.chosen"));
  const focused = element.contains(document.activeElement) && nameOf(document.activeElement);
  const scrolled = all(".scroll, pre").map((each) => [each.scrollLeft, each.scrollTop]);
  const { scrollX, scrollY } = window;
  element.replaceChildren(...fresh.childNodes);
  localTimes(element);
  for (const each of all("details")) each.open = folds.get(nameOf(each)) ?? each.open;
  if (chosen) rowsOf(element).find((row) => keyOf(row) === chosen)?.classList.add("chosen");
  if (focused) all("a, button, summary").find((each) => nameOf(each) === focused)?.focus({ preventScroll: true });
  all(".scroll, pre").forEach((each, at) => scrolled[at] && each.scrollTo(...scrolled[at]));
  scrollTo(scrollX, scrollY);
}

function announce(list, fresh) {
  const known = new Set(rowsOf(list).map(keyOf));
  const rows = rowsOf(fresh);
  const news = rows.filter((row) => !known.has(keyOf(row)));
  const place = list.previousElementSibling;
  if (!news.length) {
    place.replaceChildren();
    return;
  }
  if (!place.firstChild) place.append(document.createElement("button"));
  const button = place.firstChild;
  const [one, many] = list.dataset.tail.split(" ");
  const more = known.size && news.length === rows.length ? " or more" : "";
  const words = `${news.length}${more} new ${news.length === 1 && !more ? one : many}`;
  if (button.textContent !== words) button.textContent = words;
  button.onclick = () => {
    for (const row of news) row.classList.add("new");
    list.replaceChildren(...fresh.childNodes);
    localTimes(list);
    place.replaceChildren();
    list.querySelector("a[href]")?.focus();
  };
}

function rowsOf(element) {
  return [...element.querySelectorAll("tbody tr")];
}

function keyOf(row) {
  return row?.querySelector("a[href]")?.getAttribute("href") ?? null;
}

if (marked.length) {
  for (const list of document.querySelectorAll("[data-tail]")) {
    const place = document.createElement("p"); // there from the start, so that a first announcement moves nothing
    place.className = "news";
    place.setAttribute("role", "status");
    list.before(place);
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : renew()));
  if (!document.hidden) {
    join();
    plan();
  }
}

localTimes(document);
