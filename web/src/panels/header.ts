import { byId, text } from "../dom.js";
import { span } from "../format.js";
import type { Stats } from "../stats.js";

const reasons: Record<string, string> = {
  draining: "draining",
  starting: "starting",
  broker_down: "not ready: broker down",
  memory_limit: "not ready: memory limit",
};

export function header(s: Stats): void {
  text("node", s.node);
  text("version", s.version || "–");
  text("uptime", span(s.uptimeSeconds));
  state("state-ready", s.notReady ? (reasons[s.notReady] ?? `not ready: ${s.notReady}`) : "ready", s.notReady ? (s.notReady === "draining" || s.notReady === "starting" ? "warn" : "bad") : "ok", s.notReadyDetail);
  state("state-broker", s.broker.connected ? "broker connected" : "broker away", s.broker.connected ? "ok" : "bad", s.broker.error);
  const pressure: Record<string, [string, string]> = {
    normal: ["memory normal", "ok"],
    hold: ["memory short: holding publishers back", "warn"],
    refuse: ["memory short: refusing", "warn"],
    evict: ["memory short: evicting", "bad"],
  };
  const [word, level] = pressure[s.pressure] ?? [`memory ${s.pressure}`, "warn"];
  state("state-pressure", word, level);
}

function state(id: string, word: string, level: string, title = ""): void {
  const e = byId(id);
  text(e, word);
  e.className = `state ${level}`;
  e.title = title;
}
