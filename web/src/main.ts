import "uplot/dist/uPlot.min.css";
import "./style.css";
import type { State } from "@odin-ws/client";
import { byId, text } from "./dom.js";
import { clock, span } from "./format.js";
import { History } from "./history.js";
import { follow } from "./link.js";
import { capacity } from "./panels/capacity.js";
import { channels } from "./panels/channels.js";
import { connections } from "./panels/connections.js";
import { delivery } from "./panels/delivery.js";
import { header } from "./panels/header.js";
import { memory } from "./panels/memory.js";
import { messages } from "./panels/messages.js";
import { node } from "./panels/node.js";
import { refusals } from "./panels/refusals.js";
import { slow } from "./panels/slow.js";
import { series } from "./series.js";
import type { Stats } from "./stats.js";
import { theme } from "./theme.js";

// Data older than this is stale, whatever the connection says.
const staleAfter = 3500;

const history = new History(series);
const panels = [connections(history), memory(history), messages(history)];
const tables = [header, delivery(history), channels, refusals(history), capacity, node];
const slowly = slow(history);

let seconds = 300;
let key = "";
let came = 0; // performance.now() of the last message
let made = 0; // when the gateway made it
let link: State | null = null;
let retryAt = 0;
let ended = "";
let firstVersion: string | undefined;

// draw brings the page up to date. Nobody sees a hidden one.
function draw(): void {
  const now = history.now;
  if (!now || document.hidden) return;
  for (const p of panels) p.draw(now, seconds);
  for (const show of tables) show(now.s);
  slowly(now.s);
  for (const e of document.querySelectorAll<HTMLElement>("thead .lately")) text(e, history.latelySaid);
}

function onStats(s: Stats, at: number): void {
  history.add({ at, s });
  came = performance.now();
  made = at;
  firstVersion ??= s.version ?? "";
  draw();
  judge();
}

// judge says how fresh the page is.
function judge(): void {
  const live = byId("live");
  const age = came ? performance.now() - came : 0;
  const connected = link?.connected === true && !ended;
  const stale = came > 0 && (!connected || age > staleAfter);
  document.body.classList.toggle("waiting", came === 0);
  document.body.classList.toggle("stale", stale);
  live.className = `live ${connected && !stale && came ? "on" : connected ? "slow" : "off"}`;
  const wait = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  let word = "live";
  if (ended) word = "ended";
  else if (!connected) word = link ? "reconnecting" : "connecting";
  else if (came === 0) word = "connected";
  else if (stale) word = "silent";
  text(live, word);

  let notice = "";
  const from = came ? `What is shown is of ${clock(made)}, ${span(age / 1000)} ago.` : "Nothing has been received yet.";
  if (ended) notice = `The gateway ended the connection: ${ended}. ${from} Reload the page to try again.`;
  else if (link && !connected) notice = `Connection to the gateway lost. ${from} ${wait > 0 ? `Next attempt in ${wait}\u202fs.` : "Trying to connect."}`;
  else if (stale) notice = `The gateway is silent. ${from}`;
  else if (firstVersion !== undefined && history.now && (history.now.s.version ?? "") !== firstVersion) {
    notice = `The gateway now runs version ${history.now.s.version}; this page came with ${firstVersion}. Reload it.`;
  }
  const box = byId("notice");
  box.hidden = !notice;
  // The box is read aloud when it appears; its seconds are not worth that.
  if (notice && box.textContent === "") text(box, notice);
  else if (box.textContent !== notice) {
    box.setAttribute("role", notice ? "none" : "alert");
    text(box, notice);
  }
  text("when", came ? `figures of ${clock(made)}` : "");
  const name = history.now?.s.node;
  document.title = `${stale || ended ? "(stale) " : ""}${name ? `${name} – ` : ""}Odin`;
}

theme(() => {
  for (const p of panels) p.recolor();
  draw();
});
byId("span").addEventListener("change", (e) => {
  seconds = Number((e.target as HTMLInputElement).value);
  draw();
});
document.addEventListener("visibilitychange", draw);
setInterval(judge, 500);
slowly.look(() => key);

void follow(
  {
    onStats,
    onState(s) {
      if (link?.connected && !s.connected) history.lost();
      link = s;
      retryAt = performance.now() + (s.retryIn ?? 0);
      judge();
    },
    onRestart: () => history.restarted(),
    onEnd(why) {
      ended = why;
      judge();
    },
  },
  (k) => (key = k),
);
