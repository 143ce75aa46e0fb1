// Messages at the bottom of the page, and how far the review is.

import { Refused } from "./api.js";
import { progress } from "./draw.js";

const find = (selector) => document.querySelector(selector);
const toast = find("#toast");
let quiet;

export function showMessage(text, bad = false) {
  toast.textContent = text;
  toast.className = bad ? "bad" : "";
  toast.hidden = false;
  clearTimeout(quiet);
  quiet = setTimeout(() => { toast.hidden = true; }, bad ? 8000 : 2500);
}

// Run something the user asked for; what goes wrong is shown.
export async function attempt(work) {
  try {
    await work();
  } catch (error) {
    showMessage(error instanceof Refused ? error.message : `The page failed: ${error}`, true);
    if (!(error instanceof Refused)) throw error;
  }
}

// The counts on top, and whether there is anything to undo.
export function showProgress(reply) {
  progress(find("#counts"), find("#seen"), reply);
  find("#undo").disabled = reply.decisions === 0;
  find("#redo").disabled = reply.undone === 0;
}
