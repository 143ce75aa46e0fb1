// The identities of a filter and a search: as many rows as there are, few of them fetched or drawn.

import { get } from "./api.js";
import { listRow } from "./draw.js";

const ROW_HEIGHT = 48;
const PAGE = 60;

export class IdentityList {
  // `pick(position)` is called when a row is clicked.
  constructor(scroller, rows, pick) {
    this.scroller = scroller;
    this.rows = rows;
    this.current = -1;
    this.known = new Map(); // position -> summary
    this.asked = new Map(); // page -> promise
    this.total = 0;
    this.query = { filter: "all", search: "" };
    scroller.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(scroller);
    rows.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) pick(Number(row.dataset.position));
    });
  }

  // The first page of another list; returns what the server replied.
  async open(filter, search) {
    const query = { filter, search };
    const reply = await get("api/identities", { ...query, offset: 0, anew: 1 });
    this.query = query;
    this.total = reply.total;
    this.known.clear();
    this.asked.clear();
    this.asked.set(0, Promise.resolve());
    this.take(reply);
    this.current = -1;
    this.scroller.scrollTop = 0;
    this.rows.style.height = `${this.total * ROW_HEIGHT}px`;
    this.draw();
    return reply;
  }

  take(reply) {
    reply.identities.forEach((summary, index) => this.known.set(reply.offset + index, summary));
  }

  // The summary at a position, fetched with its page if need be.
  async at(position) {
    const page = Math.floor(position / PAGE);
    if (!this.asked.has(page)) {
      const query = this.query;
      this.asked.set(page, get("api/identities", { ...query, offset: page * PAGE }).then((reply) => {
        if (this.query === query) this.take(reply);
        this.draw();
      }));
    }
    await this.asked.get(page);
    return this.known.get(position);
  }

  // An identity's numbers have changed.
  update(summary) {
    for (const [position, known] of this.known) {
      if (known.id === summary.id) this.known.set(position, summary);
    }
    this.draw();
  }

  select(position) {
    this.current = position;
    const top = position * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop || top + ROW_HEIGHT > scrollTop + clientHeight) {
      this.scroller.scrollTop = top - clientHeight / 3;
    }
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW_HEIGHT) - 4);
    const shown = Math.ceil(this.scroller.clientHeight / ROW_HEIGHT) + 8;
    const made = [];
    for (let position = first; position < Math.min(first + shown, this.total); position += 1) {
      if (!this.known.has(position)) this.at(position).catch(() => {});
      const row = listRow(this.known.get(position), position, ROW_HEIGHT);
      if (position === this.current) row.setAttribute("aria-current", "true");
      made.push(row);
    }
    this.rows.replaceChildren(...made);
  }
}
