import { Hole, type Chain } from "./chain.js";
import type { Core } from "./core.js";
import type { Frame } from "./frames.js";
import { channelGap, gapOf, takeMsg } from "./take.js";
import { OdinError } from "./types.js";

// repair begins to fill the hole before a message: what comes of the channel is
// held back until the server has answered.
export function repair(core: Core, ch: Chain, f: Frame): void {
  ch.hole = new Hole(f.prev);
  ch.hole.hold(f);
  core.link?.push({ op: "replay", chain: ch }, { ch: ch.name, epoch: ch.epoch, from: ch.at() + 1, to: f.prev });
}

// replayed is the end of a repair.
export function replayed(core: Core, ch: Chain, answered: boolean): void {
  const h = ch.hole;
  if (!h || core.chains.get(ch.name) !== ch) return;
  if (answered && !h.bad && ch.at() >= h.to) {
    core.stats.repaired++;
    ch.hole = null;
    release(core, ch, h);
  } else if (ch.tried !== ch.at()) {
    reconnect(core, ch, "a hole could not be filled by replay");
  } else {
    ch.hole = null;
    giveUp(core, ch, h.held[0]!.seq); // held since the hole was seen
    release(core, ch, h);
  }
}

// reconnect fills a hole the other way: a new connection resumes before it.
export function reconnect(core: Core, ch: Chain, why: string): void {
  ch.tried = ch.at();
  core.fail(new OdinError("unexplained", `${why}; reconnecting before it`, { channel: ch.name }), true);
}

// giveUp tells of a hole that stays.
export function giveUp(core: Core, ch: Chain, before: number, after = ch.at()): void {
  ch.missing(before, "unexplained");
  core.gap(ch.follow, ch, { channel: ch.name, after, before, why: "unexplained" });
}

// release goes on with what was held back; another hole among it holds the rest.
function release(core: Core, ch: Chain, h: Hole): void {
  for (const f of h.held) {
    if (ch.hole) {
      if (!ch.hole.hold(f)) {
        reconnect(core, ch, "too much came while a hole was being filled");
        return;
      }
    } else if (f.t === "gap") {
      channelGap(core, ch, gapOf(f));
    } else {
      takeMsg(core, ch, f);
    }
  }
}
