// All pages work without this: it shows times in the viewer's zone, moves by keys, keeps a form from being sent twice,
// and brings what is new.

const main = document.querySelector("#main");

function localTimes(within) {
  const shown = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  for (const time of within.querySelectorAll("time[datetime]")) {
    const text = shown.format(new Date(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
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

// A second click would do the same again, or show only that it was already done. Anyone who stopped the first may try
// again.
const AGAIN = 30000; // milliseconds
let sent = null;
let sentAt = 0;

document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target === sent && performance.now() - sentAt < AGAIN) {
    event.preventDefault();
    return;
  }
  sent = event.target;
  sentAt = performance.now();
});
window.addEventListener("pageshow", () => (sent = null));

// Live: what a page marks is fetched anew from the page's own address, soon after an event and otherwise every five
// seconds, while the tab is seen and something is marked. What has changed of `data-live` is put in its place. In a list
// that is `data-tail="event events"` nothing moves: it is said how many rows are new, and a button shows them. A row is
// known by its first link. Both need an id. As the address decides what is shown, nothing is missing or there twice,
// wherever the receiver was meanwhile. Mark nothing whose reading the audit keeps.
//
// Ten consoles must not slow the receiver down. Their requests have turns behind webhooks, so a busy receiver answers
// late, and each console rests for twenty times as long as its answer took. It leaves the stream at the first event and
// joins it again after the rest, so that a thousand events cost as much as one; where one comes at once, many do, and the
// rest is longer. A tab that nobody sees asks for nothing.
const SOON = 2000; // milliseconds
const AT_ONCE = 1000;
const OTHERWISE = 5000;
const LONGEST = 60000;
const RESTS = 20;

const marked = [...document.querySelectorAll("[data-live], [data-tail]")];
const served = new Map(marked.map((element) => [element.id, element.innerHTML]));
let stream = null;
let joining = 0;
let least = SOON;
let asking = null;
let planned = 0;
let wanted = false;
let freeAt = 0;
let notice = null;

function plan() {
  clearTimeout(planned);
  if (!marked.some((element) => element.matches("[data-live], [data-tail]"))) return leave();
  planned = setTimeout(renew, Math.max(wanted ? 0 : OTHERWISE, freeAt - performance.now()));
}

function join() {
  const began = performance.now();
  stream = new EventSource("/console/stream");
  stream.onmessage = () => {
    least = performance.now() - began < AT_ONCE ? OTHERWISE : SOON;
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
  const rest = Math.min(LONGEST, Math.max(least, RESTS * (performance.now() - began)));
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
      become(element, found);
      localTimes(element);
    }
  }
}

// Whether somebody types in it, or has filled something in.
function isInUse(element) {
  const isFilledIn = (field) =>
    field.tagName === "SELECT"
      ? field.selectedIndex > 0 && !field.selectedOptions[0].defaultSelected
      : field.value !== field.defaultValue || field.checked !== field.defaultChecked;
  const fields = [...element.querySelectorAll("input:not([type=hidden]), textarea, select")];
  return fields.some((field) => field === document.activeElement || isFilledIn(field));
}

// Makes a node what the fresh one is, and leaves alone what is the same: so what one has unfolded, chosen, focused,
// selected and scrolled stays. Rows are told apart by their first link, all else by its place.
function become(node, fresh) {
  if (node.nodeName !== fresh.nodeName || node.id !== fresh.id) {
    node.replaceWith(fresh);
    return fresh;
  }
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.data !== fresh.data) node.data = fresh.data;
    return node;
  }
  if (node.nodeName === "TIME" && node.dateTime === fresh.dateTime) return node;
  if (node.classList.contains("chosen")) fresh.classList.add("chosen");
  if (node.nodeName === "DETAILS") fresh.open = node.open;
  for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name)) node.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  const isBody = node.nodeName === "TBODY";
  const after = (child) => (isBody ? child.nextElementSibling : child.nextSibling);
  let at = isBody ? node.firstElementChild : node.firstChild;
  for (const child of isBody ? [...fresh.children] : [...fresh.childNodes]) {
    const key = isBody && keyOf(child);
    let same = at;
    while (key && same && keyOf(same) !== key) same = same.nextElementSibling;
    if (!same || same !== at) node.insertBefore(same ?? child, at);
    if (same) at = after(become(same, child));
  }
  while (at) {
    const left = at;
    at = after(at);
    left.remove();
  }
  return node;
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
