// What the page tells besides faces: a line at the bottom, and how far the review is.

import { Refused } from "./ask.js";
import { progress } from "./draw.js";

const find = (selector) => document.querySelector(selector);
const toast = find("#toast");
let quiet;

export function tell(text, bad = false) {
  toast.textContent = text;
  toast.className = bad ? "bad" : "";
  toast.hidden = false;
  clearTimeout(quiet);
  quiet = setTimeout(() => { toast.hidden = true; }, bad ? 8000 : 2500);
}

// Run something the user asked for; what goes wrong is told.
export async function attempt(work) {
  try {
    await work();
  } catch (error) {
    tell(error instanceof Refused ? error.message : `The page failed: ${error}`, true);
    if (!(error instanceof Refused)) throw error;
  }
}

// The counts on top, and whether there is anything to undo.
export function tellProgress(said) {
  progress(find("#counts"), find("#seen"), said);
  find("#undo").disabled = said.decisions === 0;
  find("#redo").disabled = said.undone === 0;
}
