// What the page asks of the server. Addresses are relative: the token is a part of the page's own.

export class Refused extends Error {}

async function answer(response) {
  const said = await response.json();
  if (!response.ok) throw new Refused(said.error);
  return said;
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
  return answer(await fetched(text ? `${address}?${text}` : address));
}

// Decisions leave one after the other: the order of the keys is the order of the journal.
let last = Promise.resolve();

export function post(address, said) {
  const sent = last.then(async () => answer(await fetched(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(said),
  })));
  last = sent.catch(() => {});
  return sent;
}
