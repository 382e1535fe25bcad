import { rows } from "../dom.js";
import { clock, count } from "../format.js";
import type { History } from "../history.js";
import type { Stats } from "../stats.js";

const meanings: Record<string, string> = {
  1000: "goodbye", 1001: "the client went away", 1002: "bad framing", 1003: "binary data", 1006: "gone without a goodbye",
  1007: "bad UTF-8", 1008: "abuse", 1009: "message too big", 1011: "our mistake", 1012: "drained", 1013: "busy",
  4001: "no good token", 4003: "forbidden", 4101: "too slow", 4102: "too many commands", 4201: "no pong",
};

// Those that nobody need look at.
const fine = new Set(["1000", "1001", "1006", "1012"]);

const words: Record<string, string> = {
  at_capacity: "at capacity", busy: "busy", draining: "draining", unauthorized: "no good token", forbidden: "origin not allowed",
  bad_request: "bad request", not_found: "no such path", timeout: "head came too late",
};

export function refusals(history: History) {
  return (s: Stats): void => {
    rows("ref-table", (s.recent?.refusals ?? []).map((r) => [
      clock(r.ts), { text: r.what, class: "code" }, words[r.why ?? ""] ?? r.why ?? "", count(r.n), r.from ?? "–",
    ]), "Nobody has been refused or thrown out.");
    const codes = Object.keys(s.closes).sort((a, b) => s.closes[b]! - s.closes[a]!);
    rows("close-table", codes.map((code) => {
      const n = history.lately((x) => x.closes[code] ?? 0);
      return [
        { text: code, class: "code" }, meanings[code] ?? "", { text: count(n), class: n === 0 ? "zero" : fine.has(code) ? "" : "warn" }, count(s.closes[code]!),
      ];
    }), "No connection has ended yet.");
  };
}
