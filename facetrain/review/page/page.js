// The review page: which identity and which face is looked at, and what the keys do.

import { get, post } from "./api.js";
import { choose } from "./chooser.js";
import { about, called, compare, faceCard, number } from "./draw.js";
import { IdentityList } from "./list.js";
import { attempt, showMessage, showProgress } from "./status.js";

const find = (selector) => document.querySelector(selector);
const main = find("main");
const faces = find("#faces");
const search = find("#search");
const filter = find("#filter");
const keysHelp = find("#keys");

let identity = null; // as the server described it, with its faces
let order = "priority";
let focus = 0; // index among identity.faces
const selected = new Set(); // rows
const details = new Map(); // address -> promise, of this identity and the next
const list = new IdentityList(find("#list"), find("#rows"), (position) => go(position));

// ---- identities

function detail(id, offset = 0) {
  const address = `api/identity/${id}?offset=${offset}&order=${order}`;
  if (!details.has(address)) {
    if (details.size > 8) details.delete(details.keys().next().value);
    const asked = get(address);
    asked.catch(() => details.delete(address));
    details.set(address, asked);
  }
  return details.get(address);
}

// The next identity's faces are in the browser before anybody asks for them.
async function prefetch(position) {
  await new Promise((done) => { setTimeout(done, 150); }); // after those of this one
  if (position >= list.total || list.current !== position - 1) return;
  const summary = await list.at(position);
  if (!summary) return;
  const next = await detail(summary.id);
  for (const row of [...next.samples, ...next.faces.slice(0, 40).map((face) => face.row)]) {
    new Image().src = `face/${row}`;
  }
}

async function open(filterName, text) {
  const reply = await list.open(filterName, text);
  find("#title").textContent = reply.title;
  document.title = `${reply.title} · review`;
  showProgress(reply.progress);
  identity = null;
  find("#empty").hidden = list.total > 0;
  find("#head").hidden = list.total === 0;
  faces.replaceChildren();
  if (list.total) await show(0);
}

async function show(position) {
  list.select(position);
  const summary = await list.at(position);
  if (!summary || list.current !== position) return;
  const next = await detail(summary.id);
  if (list.current !== position) return; // gone on meanwhile
  identity = next;
  selected.clear();
  focus = 0;
  main.scrollTop = 0;
  redraw();
  prefetch(position + 1).catch(() => {});
}

function go(position) {
  if (position < 0 || position >= list.total) {
    showMessage(position < 0 ? "This is the first identity." : "This was the last identity of the list.");
    if (position < 0) return;
  }
  leave();
  if (position < list.total) attempt(() => show(position));
}

// Whoever is left counts as seen.
function leave() {
  if (!identity || identity.seen) return;
  const left = identity;
  attempt(async () => {
    const reply = await post("api/seen", { identity: left.id });
    left.seen = true;
    showProgress(reply.progress);
    const known = [...list.known.values()].find((one) => one.id === left.id);
    if (known) list.update({ ...known, seen: true });
  });
}

// ---- faces

function redraw() {
  about(find("#about"), identity, order);
  faces.replaceChildren(...identity.faces.map((face) => faceCard(face, identity)));
  mark();
}

// Show which face has the focus and which are selected.
function mark() {
  for (const card of faces.querySelectorAll("[aria-current]")) card.removeAttribute("aria-current");
  for (const card of faces.children) {
    card.setAttribute("aria-selected", String(selected.has(Number(card.dataset.row))));
  }
  const card = faces.children[focus];
  card?.setAttribute("aria-current", "true");
  compare(find("#compare"), identity, identity.faces[focus]);
  if (card) {
    main.style.scrollPaddingTop = `${find("#head").offsetHeight + 12}px`;
    card.scrollIntoView({ block: "nearest" });
  }
  if (focus >= identity.faces.length - 12) more().catch(() => {});
}

// A large identity's faces come page by page.
async function more() {
  const of = identity;
  if (of.faces.length >= of.total || of.loading) return;
  of.loading = true;
  const next = await detail(of.id, of.offset + of.faces.length);
  Object.assign(of.related, next.related);
  of.faces = [...of.faces, ...next.faces];
  of.loading = false;
  if (of === identity) faces.append(...next.faces.map((face) => faceCard(face, of)));
}

function columns() {
  const cards = [...faces.children];
  const top = cards[0]?.offsetTop;
  const below = cards.findIndex((card) => card.offsetTop !== top);
  return below < 0 ? cards.length : below;
}

function moveFocus(by) {
  if (!identity?.faces.length) return;
  focus = Math.min(Math.max(focus + by, 0), identity.faces.length - 1);
  mark();
}

// ---- decisions

// Take in what a decision changed; the numbers of this identity may have, too.
async function changed(reply, words) {
  details.clear();
  showProgress(reply.progress);
  const touched = new Map(reply.faces.map((face) => [face.row, face]));
  identity.faces.forEach((face, index) => {
    const now = touched.get(face.row);
    if (!now) return;
    identity.faces[index] = now;
    faces.children[index].replaceWith(faceCard(now, identity));
  });
  mark();
  showMessage(words);
  const of = identity;
  const now = await get(`api/identity/${of.id}`, { offset: 0, order });
  if (of !== identity) return;
  const { faces: _, offset: __, total: ___, related, ...summary } = now;
  Object.assign(identity, summary);
  Object.assign(identity.related, related);
  about(find("#about"), identity, order);
  list.update(summary);
}

function chosenRows() {
  if (selected.size) return [...selected];
  return identity?.faces[focus] ? [identity.faces[focus].row] : [];
}

async function decide(action, to) {
  const rows = chosenRows();
  if (!rows.length) return;
  const of = identity;
  const single = selected.size === 0;
  const sent = post("api/decide", { action, identity: of.id, rows, to });
  selected.clear(); // at once: the next key may come before the answer
  if (single && focus < identity.faces.length - 1) focus += 1;
  mark();
  const reply = await sent;
  const what = { keep: "kept", drop: "dropped", move: `moved to ${to}` }[action];
  if (of === identity) await changed(reply, `${what}: ${number(rows.length)} ${rows.length === 1 ? "face" : "faces"} · u takes it back`);
}

// To the suggested identity; faces with several different ones are several decisions.
async function moveToSuggested() {
  const rows = new Set(chosenRows());
  const to = new Set(identity.faces.filter((face) => rows.has(face.row)).map((face) => face.suggested));
  if (to.size !== 1) showMessage("Different identities are suggested for these faces: choose one.");
  const [only] = to;
  if (to.size === 1 && only !== null) await decide("move", only);
  else await moveToAny();
}

async function moveToAny() {
  const many = chosenRows().length;
  if (!many) return;
  const to = await choose(`Move ${number(many)} ${many === 1 ? "face" : "faces"} to …`);
  if (to !== null) await decide("move", to);
}

// The image with the focus and its partner each go to the identity that the other one was in.
async function swap() {
  const face = identity.faces[focus];
  if (!face || face.swap_with === null) {
    showMessage("The cleaner knows of no image that this one is swapped with.");
    return;
  }
  const of = identity;
  const reply = await post("api/decide", { action: "swap", identity: of.id, rows: [face.row] });
  if (of === identity) await changed(reply, `swapped with an image of ${face.suggested} · u takes both back`);
}

async function merge(to) {
  const target = to ?? await choose(`Merge ${called(identity.id, identity.name)} into …`);
  if (target === null) return;
  const of = identity;
  const reply = await post("api/decide", { action: "merge", identity: of.id, rows: [], to: target });
  if (of === identity) await reload(reply, `merged into ${target} · u takes it back`);
}

// After what may touch more faces than are shown.
async function reload(reply, words) {
  details.clear();
  const kept = focus;
  identity = await detail(identity.id);
  focus = Math.min(kept, Math.max(identity.faces.length - 1, 0));
  selected.clear();
  redraw();
  showProgress(reply.progress);
  list.update(identity);
  showMessage(words);
}

async function timeTravel(address, words) {
  const reply = await post(address, {});
  const row = reply.faces[0]?.row;
  const away = row !== undefined && !identity.faces.some((face) => face.row === row);
  await reload(reply, away ? `${words}, at identity ${reply.faces[0].home}` : words);
}

function selectAll() {
  const rows = identity.faces.map((face) => face.row);
  const all = rows.every((row) => selected.has(row));
  selected.clear();
  if (!all) rows.forEach((row) => selected.add(row));
  mark();
}

function select() {
  const row = identity?.faces[focus]?.row;
  if (row === undefined) return;
  if (!selected.delete(row)) selected.add(row);
  moveFocus(1);
}

function clear() {
  if (selected.size) {
    selected.clear();
    mark();
  } else if (search.value) {
    search.value = "";
    attempt(() => open(filter.value, ""));
  }
}

function theme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
}

const withIdentity = (work) => () => { if (identity) attempt(work); };
const KEYS = {
  ArrowLeft: () => moveFocus(-1),
  ArrowRight: () => moveFocus(1),
  ArrowUp: () => moveFocus(-columns()),
  ArrowDown: () => moveFocus(columns()),
  Home: () => moveFocus(-focus),
  End: () => moveFocus(identity?.faces.length ?? 0),
  " ": select,
  a: withIdentity(selectAll),
  k: withIdentity(() => decide("keep")),
  d: withIdentity(() => decide("drop")),
  m: withIdentity(moveToSuggested),
  M: withIdentity(moveToAny),
  g: withIdentity(() => merge(identity.merge)),
  G: withIdentity(() => merge(null)),
  s: withIdentity(swap),
  n: () => go(list.current + 1),
  Enter: () => go(list.current + 1),
  p: () => go(list.current - 1),
  u: withIdentity(() => timeTravel("api/undo", "taken back · r decides it again")),
  r: withIdentity(() => timeTravel("api/redo", "decided again")),
  o: withIdentity(async () => {
    order = order === "priority" ? "probability" : "priority";
    await show(list.current);
  }),
  f: () => {
    filter.selectedIndex = (filter.selectedIndex + 1) % filter.options.length;
    attempt(() => open(filter.value, search.value));
  },
  "/": () => search.focus(),
  t: theme,
  "?": () => keysHelp.showModal(),
  Escape: clear,
};

document.addEventListener("keydown", (event) => {
  if (keysHelp.open || find("#chooser").open) return;
  if (event.target === search) {
    if (event.key === "Escape" || event.key === "Enter") search.blur();
    if (event.key === "Escape") clear();
    return;
  }
  let { key } = event;
  if (event.ctrlKey || event.metaKey) {
    if (key.toLowerCase() === "z") key = event.shiftKey ? "r" : "u";
    else if (key === "y") key = "r";
    else return;
  }
  if (event.altKey || !(key in KEYS)) return;
  event.preventDefault();
  if (event.target instanceof HTMLElement) event.target.blur();
  KEYS[key]();
});

faces.addEventListener("click", (event) => {
  const card = event.target.closest(".face");
  if (!card) return;
  focus = [...faces.children].indexOf(card);
  if (event.ctrlKey || event.metaKey) {
    const row = Number(card.dataset.row);
    if (!selected.delete(row)) selected.add(row);
  }
  mark();
});
main.addEventListener("scroll", () => {
  const near = main.scrollTop + 2 * main.clientHeight > main.scrollHeight;
  if (near && identity) more().catch(() => {});
});
find("#about").addEventListener("click", (event) => {
  const { key } = event.target.dataset;
  if (key) KEYS[key]();
});
find("#undo").addEventListener("click", KEYS.u);
find("#redo").addEventListener("click", KEYS.r);
find("#theme").addEventListener("click", theme);
find("#help").addEventListener("click", KEYS["?"]);
keysHelp.addEventListener("click", () => keysHelp.close());
filter.addEventListener("change", () => {
  filter.blur();
  attempt(() => open(filter.value, search.value));
});
let typing;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => attempt(() => open(filter.value, search.value)), 150);
});

attempt(() => open("all", ""));
