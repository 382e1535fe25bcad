import { byId } from "./dom.js";

// theme follows the system unless somebody chose; the choice is kept in this browser.
export function theme(changed: () => void): void {
  const root = document.documentElement;
  const form = byId<HTMLFieldSetElement>("theme");
  const apply = (choice: string) => {
    if (choice === "auto") delete root.dataset.theme;
    else root.dataset.theme = choice;
    const input = form.querySelector<HTMLInputElement>(`input[value="${choice}"]`);
    if (input) input.checked = true;
    changed();
  };
  let kept = "auto";
  try {
    const was = localStorage.getItem("theme");
    if (was === "light" || was === "dark") kept = was;
  } catch {
    // This browser keeps nothing.
  }
  apply(kept);
  form.addEventListener("change", (e) => {
    const choice = (e.target as HTMLInputElement).value;
    try {
      localStorage.setItem("theme", choice);
    } catch {
      // As above.
    }
    apply(choice);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
