import { byId, rows, text } from "../dom.js";
import { bytes, clock, count, span } from "../format.js";
import type { History } from "../history.js";
import type { Conn, Stats } from "../stats.js";

// What is done with who is slow, mildest first.
const actions: [what: string, title: string, of: (s: Stats) => number][] = [
  ["strikes", "looks at which a client was too far behind and getting no nearer; the third cuts it", (s) => s.slow.strike ?? 0],
  ["conflated", "clients that let the server leave messages out, and are given the newest only", (s) => s.slow.conflate ?? 0],
  ["restored", "of those, the ones given every message again", (s) => s.slow.restore ?? 0],
  ["writes held back", "for want of backlog budget: the kernel's memory for unacknowledged bytes", (s) => s.heldBack],
  ["cut", "closed with 4101, or reset: too far behind, or nothing taken for too long", (s) => s.slow.cut ?? 0],
  ["evicted", "reset because memory was short and they held some without progress", (s) => s.slow.evict ?? 0],
];

export function slow(history: History) {
  const show = (s: Stats): void => {
    if (s.settings) text("slow-rule", `slow: over ${count(s.settings.sendQueue)} messages behind, or nothing taken for ${span(s.settings.slowTimeoutMs / 1000)}`);
    rows("slow-table", [
      ...actions.map(([what, title, of]) => [{ text: what, title }, fresh(history.lately(of)), count(of(s))]),
      ...whys(s).map(([why, n]) => [{ text: `cut: ${why}`, class: "sub" }, "", `${count(n)} lately`]),
    ], "");
  };
  show.look = (key: () => string) => byId("slow-look").addEventListener("click", () => void look(key()));
  return show;
}

const fresh = (n: number) => ({ text: count(n), class: n > 0 ? "warn" : "zero" });

// whys are the reasons of the cuts that are still in the log of refusals.
function whys(s: Stats): [string, number][] {
  const by = new Map<string, number>();
  for (const r of s.recent?.refusals ?? []) {
    if (r.what === "4101") by.set(r.why || "slow", (by.get(r.why || "slow") ?? 0) + r.n);
  }
  return [...by].sort((a, b) => b[1] - a[1]);
}

// look asks for the connections that are furthest behind. It costs the gateway a walk
// over all of them, so it is done when somebody wants it.
async function look(key: string): Promise<void> {
  const button = byId<HTMLButtonElement>("slow-look");
  button.disabled = true;
  text("slow-said", "looking");
  try {
    const res = await fetch("/connz?sort=lag&limit=10", key
      ? { headers: { "X-API-Key": key }, credentials: "omit" } // else the browser asks for a name and a password if it is refused
      : {});
    if (!res.ok) throw new Error(`the gateway answered ${res.status}`);
    const { connections, total } = (await res.json()) as { connections: Conn[]; total: number };
    const behind = connections.filter((c) => c.lag > 0 || c.blocked || c.held || c.strikes > 0);
    byId("slow-found").hidden = false;
    rows("slow-conns", behind.map((c) => [
      c.conn, why(c), count(c.lag), bytes(c.unacked_bytes), `${span(c.taken_s)} ago`, c.addr,
    ]), `None of ${count(total)} is behind.`);
    text("slow-said", `as of ${clock(Date.now())}`);
  } catch (err) {
    text("slow-said", `That did not work: ${(err as Error).message}.`);
  } finally {
    button.disabled = false;
  }
}

function why(c: Conn): string {
  const said = [
    c.held ? "held back: no backlog budget" : c.blocked ? "its socket is full" : "",
    c.strikes > 0 ? `${c.strikes} of 3 strikes` : "",
    c.conflated ? "conflated" : "",
    c.catching_up ? "catching up from the stream" : "",
  ];
  return said.filter(Boolean).join(", ") || "on its way";
}
