import { byId, make, text } from "../dom.js";
import { bytes, count, percent, short } from "../format.js";
import type { Stats } from "../stats.js";
import { sum } from "./connections.js";

// Rows of the panel. One whose text is empty is not shown; bad ones are marked.
function pairs(s: Stats): [name: string, value: string, bad?: boolean][] {
  const b = s.broker;
  const z = s.compression;
  return [
    ["Broker", b.connected ? "connected" : b.error || "away", !b.connected],
    ["Epoch, head", `${b.epoch || "–"}, ${count(b.head)}`],
    ["Delivered to this node", count(b.delivered)],
    ["Lost by the broker", count(b.lost), b.lost > 0],
    ["Read again", count(b.refetched)],
    ["Queue overflows", count(b.overflows), b.overflows > 0],
    ["Broker reconnects", count(b.reconnects), b.reconnects > 0],
    ["Gaps told to clients", gaps(s.gaps), (s.gaps["broker"] ?? 0) > 0],
    ["Messages skipped for slow or latest", short(s.skippedMessages)],
    ["Replays asked for", count(s.messageReplayRequests)],
    ["Commands over the rate", count(s.rateLimitedMessages)],
    ["Subscriptions, channels", `${count(s.subscriptions)}, ${count(s.channels)}`],
    ["Event loops, goroutines", `${count(s.shards)}, ${count(s.goroutines)}`],
    ["Compression", z && z.messages > 0 ? `${count(z.connections)} connections, to ${percent(z.bytesAfter, z.bytesBefore)}` : ""],
    ["Unacknowledged", bytes(s.backlogBytes)],
    ["Pages like this one", s.statsFeed ? count(s.statsFeed.connections) : ""],
  ];
}

function gaps(g: Record<string, number>): string {
  const some = Object.entries(g).filter(([, n]) => n > 0);
  return sum(g) === 0 ? "0" : some.map(([why, n]) => `${count(n)} ${why}`).join(", ");
}

export function node(s: Stats): void {
  const box = byId("pairs");
  const wanted = pairs(s).filter(([, value]) => value !== "");
  while (box.children.length > wanted.length) box.lastChild!.remove();
  wanted.forEach(([name, value, bad], i) => {
    let div = box.children[i] as HTMLElement | undefined;
    if (!div) {
      div = make("div");
      div.append(make("dt"), make("dd"));
      box.append(div);
    }
    text(div.children[0] as HTMLElement, name);
    text(div.children[1] as HTMLElement, value);
    div.classList.toggle("bad", bad === true);
  });
}
