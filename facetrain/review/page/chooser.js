// The dialog that asks for an identity; resolves to its id, or to null.

import { get } from "./api.js";
import { called, element, number, picture } from "./draw.js";

const dialog = document.querySelector("#chooser");
const wanted = document.querySelector("#wanted");
const hits = document.querySelector("#hits");
let found = [];
let chosen = 0;
let finish = () => {};

function draw() {
  hits.replaceChildren(...found.map((summary, index) => {
    const hit = element("div", "hit");
    hit.setAttribute("role", "option");
    hit.setAttribute("aria-selected", String(index === chosen));
    const text = element("span", "", called(summary.id, summary.name));
    text.append(element("small", "", `${number(summary.images)} images`));
    hit.append(...summary.samples.map(picture), text);
    hit.addEventListener("click", () => end(summary.id));
    return hit;
  }));
  hits.children[chosen]?.scrollIntoView({ block: "nearest" });
}

async function look() {
  const search = wanted.value;
  const reply = await get("api/identities", { filter: "all", search, offset: 0, anew: 1 });
  if (search !== wanted.value) return; // typed on meanwhile
  found = reply.identities.slice(0, 20);
  chosen = 0;
  draw();
}

function end(id) {
  dialog.close();
  finish(id);
}

wanted.addEventListener("input", () => look().catch(() => {}));
dialog.addEventListener("cancel", () => finish(null));
dialog.addEventListener("keydown", (event) => {
  event.stopPropagation();
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    chosen = Math.min(Math.max(chosen + (event.key === "ArrowDown" ? 1 : -1), 0), found.length - 1);
    draw();
  } else if (event.key === "Enter") {
    if (found[chosen]) end(found[chosen].id);
  } else if (event.key === "Escape") {
    end(null);
  } else {
    return;
  }
  event.preventDefault();
});

export function choose(purpose) {
  document.querySelector("#purpose").textContent = purpose;
  wanted.value = "";
  dialog.showModal();
  wanted.focus();
  look().catch(() => {});
  return new Promise((resolve) => { finish = resolve; });
}
