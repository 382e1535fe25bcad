import { rows, text } from "../dom.js";
import { count, rate } from "../format.js";
import type { Stats } from "../stats.js";

export function channels(s: Stats): void {
  const top = s.topChannels ?? [];
  const most = Math.max(1e-9, ...top.map((c) => c.in));
  text("top-of", `of ${count(s.channels)}, ${count(s.subscriptions)} subscriptions`);
  rows("top-table", top.map((c) => [
    { text: c.ch, title: c.ch, class: "name" }, rate(c.in), { text: "", bar: c.in / most }, c.members < 0 ? "?" : count(c.members),
  ]), "No channel had a message in the last second.");
}
