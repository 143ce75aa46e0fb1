// From what the server says to what is seen. Names come from the data: they go in as text only.

const count = new Intl.NumberFormat("en");

export function number(value) {
  return count.format(value);
}

export function element(kind, className = "", text = "") {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function picture(row) {
  const image = element("img");
  image.src = `face/${row}`;
  image.alt = "";
  image.draggable = false;
  image.decoding = "async";
  return image;
}

export function called(id, name) {
  return name && name !== String(id) ? `${name} (${id})` : String(id);
}

// What becomes of a face, seen from the page of an identity: [state, words].
export function stateOf(face, identity) {
  const here = identity.merged_into ?? identity.id;
  if (!face.kept) return ["dropped", "dropped"];
  if (face.label !== here) return ["moved", `→ ${face.label}`];
  if (face.reason === "ambiguous" && !face.action) return ["unsure", "ambiguous"];
  return face.home === identity.id ? ["kept", "kept"] : ["moved", `from ${face.home}`];
}

function percent(value) {
  return `${(100 * value).toFixed(1)}%`;
}

export function faceCard(face, identity) {
  const [state, words] = stateOf(face, identity);
  const card = element("div", `face ${state}`);
  card.dataset.row = face.row;
  card.setAttribute("role", "option");
  const line = element("div", "state", words);
  if (face.action) line.append(element("span", "", "✓"));
  const bar = element("div", "bar");
  const filled = element("i");
  filled.style.width = percent(face.probability);
  bar.append(filled);
  let numbers = `p ${face.probability.toFixed(2)}`;
  if (face.threshold !== null) {
    const tick = element("u");
    tick.style.left = percent(face.threshold);
    bar.append(tick);
    numbers += ` · threshold ${face.threshold.toFixed(2)}`;
  }
  card.append(picture(face.row), line);
  const why = face.swap_with === null ? face.reason : "swapped image";
  if (why !== "clean" && why !== "ambiguous") card.append(element("div", "reason", why));
  card.append(bar, element("div", "numbers", numbers));
  if (face.copy_of !== null) {
    const copy = element("div", "maybe", "copy of ");
    copy.append(picture(face.copy_of));
    card.append(copy);
  }
  if (face.suggested !== null) {
    const maybe = element("div", "maybe", `${face.suggested}? ${face.suggested_probability.toFixed(2)} `);
    const { samples } = identity.related[face.suggested] ?? { samples: [] };
    maybe.append(...samples.slice(0, 3).map(picture));
    card.append(maybe);
  }
  return card;
}

function strip(caption, rows, className = "") {
  const figure = element("figure", className);
  const pictures = element("div");
  pictures.append(...rows.map(picture));
  figure.append(element("figcaption", "", caption), pictures);
  return figure;
}

// This identity's surest faces, the face in question, and those of whom it may be.
export function compare(target, identity, face) {
  const parts = [strip("this identity, surest faces", identity.samples)];
  if (face) parts.push(strip("this face", [face.row], "focused"));
  const other = face?.suggested ?? identity.merge;
  const related = identity.related[other];
  if (related) {
    const what = face?.suggested === other ? "may be" : "may be one with";
    parts.push(strip(`${what} ${called(other, related.name)}`, related.samples));
  }
  if (face && face.swap_with !== null) parts.push(strip("partner (s swaps)", [face.swap_with]));
  target.replaceChildren(...parts);
}

export function about(target, identity, order) {
  const threshold = identity.threshold === null ? "" : ` · threshold ${identity.threshold.toFixed(2)}`;
  const arrived = identity.arrived ? `, ${number(identity.arrived)} from others` : "";
  target.replaceChildren(
    element("strong", "", called(identity.id, identity.name)),
    element("span", "soft",
      `${number(identity.kept)} of ${number(identity.images)} images kept${arrived}${threshold}` +
      ` · about ${identity.priority.toFixed(1)} labels to set right · by ${order}`),
  );
  if (identity.merged_into !== null) {
    target.append(element("span", "banner", `merged into ${identity.merged_into}`));
  } else if (identity.merge !== null) {
    const { name } = identity.related[identity.merge];
    const button = element("button", "", `merge into ${called(identity.merge, name)}  (g)`);
    button.dataset.key = "g";
    target.append(element("span", "banner", "the same person twice?"), button);
  }
}

export function listRow(summary, position, height) {
  const row = element("div", summary?.seen ? "row seen" : "row");
  row.style.top = `${position * height}px`;
  row.dataset.position = position;
  if (!summary) return row;
  const decided = summary.decided ? ` · ${number(summary.decided)} by you` : "";
  const dropped = summary.images - summary.kept;
  const small = summary.samples.slice(0, 1).map(picture);
  for (const image of small) image.fetchPriority = "low"; // the faces in question come first
  row.append(
    ...small,
    element("span", "priority", summary.priority.toFixed(1)),
    element("b", "", `${summary.seen ? "✓ " : ""}${called(summary.id, summary.name)}`),
    element("small", "", `${number(summary.images)} images, ${number(dropped)} not kept${decided}`),
  );
  return row;
}

export function progress(counts, bar, reply) {
  counts.textContent = `${number(reply.decisions)} decisions · ` +
    `${number(reply.seen)} of ${number(reply.identities)} identities seen`;
  bar.max = reply.identities;
  bar.value = reply.seen;
}
