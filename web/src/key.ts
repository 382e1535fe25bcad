import { byId, text } from "./dom.js";

// The API key, where the gateway wants one. It lives in this tab only: in no URL, no
// log, no storage that outlives the tab.
const name = "odin-api-key";

export function keptKey(): string {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function keep(key: string): void {
  try {
    if (key) sessionStorage.setItem(name, key);
    else sessionStorage.removeItem(name);
  } catch {
    // It is asked for again when the page is loaded again.
  }
}

/** Asks for a key until there is one; refused says that the last one was not accepted. */
export function askKey(refused: boolean): Promise<string> {
  keep("");
  const dialog = byId<HTMLDialogElement>("ask");
  const input = byId<HTMLInputElement>("ask-key");
  if (refused) text("ask-why", "The gateway did not accept this key, or no longer does. It takes those of the role admin.");
  input.value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    let answered = false;
    // There is nothing to see without. A browser lets cancel be prevented only once.
    dialog.oncancel = (e) => e.preventDefault();
    dialog.onclose = () => {
      if (!answered) dialog.showModal();
    };
    byId<HTMLFormElement>("ask-form").onsubmit = () => {
      answered = true;
      const key = input.value.trim();
      input.value = "";
      keep(key);
      resolve(key);
    };
  });
}
