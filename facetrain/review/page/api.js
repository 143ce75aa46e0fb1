// What the page asks of the server. Addresses are relative: the token is a part of the page's own.

export class Refused extends Error {}

async function parsed(response) {
  const reply = await response.json();
  if (!response.ok) throw new Refused(reply.error);
  return reply;
}

async function fetched(address, options) {
  try {
    return await fetch(address, options);
  } catch {
    throw new Refused("The review is not running any more. What you decided before is saved.");
  }
}

export async function get(address, query = {}) {
  const text = new URLSearchParams(query).toString();
  return parsed(await fetched(text ? `${address}?${text}` : address));
}

// Decisions leave one after the other: the order of the keys is the order of the journal.
let last = Promise.resolve();

export function post(address, content) {
  const sent = last.then(async () => parsed(await fetched(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  })));
  last = sent.catch(() => {});
  return sent;
}
