import type { Chain } from "./chain.js";
import type { Core } from "./core.js";
import { FrameMessage, isWildcard, type Frame } from "./frames.js";
import type { Command, Link } from "./link.js";
import { giveUp, reconnect, repair, replayed } from "./repair.js";
import { begin, chainOf, owner, settle, settleIf, type Follow } from "./subscribe.js";
import { askList, checkpoint, endBriefs } from "./tend.js";
import { OdinError, type Gap, type Position } from "./types.js";

// take acts on one frame of the server.
export function take(core: Core, l: Link, f: Frame): void {
  switch (f.t) {
    case "msg": {
      const ch = chainOf(core, f.name);
      if (ch) takeMsg(core, ch, f);
      else core.stats.strays++;
      break;
    }
    case "gap":
      takeGap(core, f);
      break;
    case "stale":
    case "live": {
      const opts = owner(core, f.name)?.sub.opts;
      if (opts?.onStale) core.due.push({ call: () => opts.onStale?.(f.name, f.t === "stale") });
      break;
    }
    case "ack":
    case "pong":
    case "err":
      takeAnswer(core, l, f);
      break;
    case "bye":
      l.bye = Math.max(0, f.retryMs);
      break;
  }
  // hb says only that there is somebody; others are not known here.
}

export function takeMsg(core: Core, ch: Chain, f: Frame): void {
  const fo = ch.follow;
  const opts = fo.sub.opts;
  const h = ch.hole;
  if (h) {
    if (f.seq > h.to) {
      // Newer than the hole.
      if (!h.hold(f)) reconnect(core, ch, "too much came while a hole was being filled");
    } else if (f.seq <= ch.seq) {
      core.stats.duplicates++;
    } else if (h.bad || f.prev > ch.at()) {
      h.bad = true;
    } else {
      if (core.link) core.link.answered = Date.now(); // the replay goes on
      deliver(core, ch, f);
    }
    return;
  }
  if (ch.next !== "") {
    // The ack named another epoch. The gap that says so came for the wildcard,
    // or not at all.
    const old = ch.at();
    if (fo.began === ch.next) {
      ch.missing(fo.told + 1, "epoch");
    } else {
      unexplain(core, ch, old, f.seq, "the epoch changed and no gap said so");
      ch.missing(f.prev + 1, "epoch");
      core.gap(fo, ch, { channel: ch.name, after: old, before: f.seq, why: "epoch", epoch: ch.epoch });
    }
  }
  const skipped = f.skip > 0 && (opts.mode === "latest" || opts.slowLatest === true);
  switch (ch.check(f.seq, f.prev, skipped, fo.told)) {
    case "duplicate":
      core.stats.duplicates++;
      break;
    case "accept":
      deliver(core, ch, f);
      break;
    case "inconsistent":
      core.report(new OdinError("chain", "the server names another message before this one than it sent", { channel: ch.name }));
      deliver(core, ch, f);
      break;
    case "unexplained":
      unexplain(core, ch, ch.at(), f.seq);
      if (opts.mode === "latest") {
        // Newer is all that was wanted, and here it is.
        giveUp(core, ch, f.seq);
        deliver(core, ch, f);
      } else {
        repair(core, ch, f);
      }
  }
}

// deliver makes a message due.
function deliver(core: Core, ch: Chain, f: Frame): void {
  ch.have(f.seq);
  core.stats.messages++;
  core.stats.skipped += f.skip;
  const opts = ch.follow.sub.opts;
  core.due.push({ call: () => opts.onMessage(new FrameMessage(f)), of: ch, at: ch.position() });
}

// gapOf is a gap frame as it is passed on.
export function gapOf(f: Frame): Gap {
  const gap = { channel: f.name, after: f.after, before: f.before, why: f.why };
  return f.epoch ? { ...gap, epoch: f.epoch } : gap;
}

function takeGap(core: Core, f: Frame): void {
  const gap = gapOf(f);
  if (isWildcard(f.name)) {
    const fo = core.byName.get(f.name);
    if (fo?.state === "on") {
      wildGap(core, fo, gap);
      return;
    }
  }
  const ch = chainOf(core, f.name);
  if (!ch) {
    core.stats.strays++;
  } else if (ch.hole && f.after >= ch.hole.to) {
    if (!ch.hole.hold(f)) reconnect(core, ch, "too much came while a hole was being filled");
  } else {
    channelGap(core, ch, gap);
  }
}

// channelGap passes a gap on. One that begins later than where the channel
// stands leaves something out itself.
export function channelGap(core: Core, ch: Chain, gap: Gap): void {
  const fo = ch.follow;
  const at = Math.max(ch.at(), fo.told);
  if (gap.why !== "epoch" && gap.after > at && !ch.hole) {
    unexplain(core, ch, at, gap.after + 1, "a gap begins later than the last message");
    giveUp(core, ch, gap.after + 1, at);
  }
  const live = ch.next === ""; // nothing had named the new epoch
  ch.missing(gap.before, gap.why, gap.epoch);
  if (gap.why === "epoch" && live) {
    if (fo.wild) reborn(fo, gap.epoch, Math.max(0, gap.before - 1));
    if (!gap.epoch && core.link) askList(core.link);
  }
  core.gap(fo, ch, gap);
}

// reborn notes, for a wildcard, that one of its channels was told of a new epoch:
// its name, if it is known, and up to where nothing more comes of it. Of several
// such places the first is the wildcard's, for the channels not seen.
function reborn(fo: Follow, epoch: string | undefined, seq: number): void {
  if (epoch ? fo.pos.epoch === epoch && !fo.voided : fo.voided) {
    if (seq >= fo.pos.seq) return;
  } else if (epoch) {
    fo.voided = false;
    fo.began = "";
    fo.listed = { epoch: "", seq: 0 };
  } else {
    fo.voided = true;
  }
  fo.told = 0;
  fo.pos = fo.done = { epoch: epoch || fo.pos.epoch, seq };
}

// wildGap passes on a gap of a wildcard: for its channels not seen, and those
// seen that the node does not remember.
function wildGap(core: Core, fo: Follow, gap: Gap): void {
  let { epoch, seq } = fo.pos;
  if (gap.why === "epoch") {
    if (gap.epoch || fo.next) {
      const live = fo.next === "";
      fo.began = epoch = gap.epoch || fo.next;
      fo.next = "";
      fo.voided = false;
      for (const ch of core.chains.values()) {
        // Known to the node or not: if it is, its own gap follows.
        if (live && ch.follow === fo && ch.epoch !== epoch) ch.next = epoch;
      }
    } else {
      fo.voided = true;
    }
    seq = 0;
  }
  fo.told = Math.max(0, gap.before - 1);
  // A gap further on leaves the position: messages before it may still be on their
  // way, of channels not seen.
  fo.pos = { epoch, seq: gap.why === "epoch" || gap.after <= seq ? Math.max(seq, fo.told) : seq };
  core.gap(fo, undefined, gap);
}

// unexplain reports a hole.
function unexplain(core: Core, ch: Chain, after: number, before: number, why = "messages are missing and no gap said so"): void {
  core.stats.unexplained++;
  core.report(new OdinError("unexplained", `${why} (after ${after}, before ${before})`, { channel: ch.name }));
}

// takeAnswer ends a command. Answers come in the commands' order.
function takeAnswer(core: Core, l: Link, f: Frame): void {
  const code = String(f.code);
  let i = -1;
  if (f.id !== undefined) i = l.waiting.findIndex((c) => c.id === f.id);
  // One too long to be read before it was refused is answered without its id.
  else if (f.t === "err" && code === "rate_limited" && l.waiting.length > 0) i = 0;
  const cmd = i < 0 ? undefined : l.waiting.splice(i, 1)[0];
  if (!cmd) {
    if (f.t === "err") {
      core.report(new OdinError(code, f.message, f.name ? { channel: f.name } : {}));
      const fo = core.byName.get(f.name);
      if (fo && code === "forbidden") fo.state = "refused"; // a new token does not allow it
    }
    return;
  }
  l.answered = Date.now();
  l.nudge();
  if (f.t === "err") {
    takeErr(core, l, cmd, code, f);
  } else if (cmd.op === "sub") {
    if (!cmd.sub!.gone) subscribed(core, cmd, f);
  } else if (cmd.op === "list") {
    checkpoint(core, f.acks);
  } else if (cmd.op === "replay") {
    replayed(core, cmd.chain!, true);
  }
}

function takeErr(core: Core, l: Link, cmd: Command, code: string, f: Frame): void {
  if (code === "rate_limited" || (code === "limit" && f.retryMs > 0)) {
    core.stats.rateLimited++;
    l.paused = Math.max(l.paused, Date.now() + Math.max(f.retryMs, 10));
    if (cmd.op === "unsub") {
      // But for what is wanted again: the server has had that command too.
      l.unsubs.unshift(...cmd.names!.filter((name) => !core.byName.has(name)));
    } else if (!cmd.sub?.gone) l.outbox.unshift(cmd);
    return;
  }
  switch (cmd.op) {
    case "sub":
      for (const name of cmd.names!) {
        const fo = core.byName.get(name);
        if (fo?.sub === cmd.sub && fo?.state === "asked") reject(core, fo, code, f.message);
      }
      settleIf(core, cmd.sub!);
      break;
    case "replay":
      replayed(core, cmd.chain!, false);
      break;
    case "auth":
      core.report(new OdinError(code, f.message));
      if (code === "unauthorized" || code === "forbidden") core.fail(new OdinError(code, f.message, { status: 4001 }));
      break;
    default:
      core.report(new OdinError(code, f.message));
  }
}

// subscribed takes the ack of a sub.
function subscribed(core: Core, cmd: Command, f: Frame): void {
  for (const name of cmd.names!) {
    const fo = core.byName.get(name);
    if (!fo || fo.sub !== cmd.sub || fo.state !== "asked") continue;
    const at = f.acks[name];
    if (at) joined(core, fo, at, cmd.since!.get(name));
    else reject(core, fo, f.rej[name] ?? "unrecoverable", f.rej[name] ? "" : "the ack doesn't mention it");
  }
  settleIf(core, cmd.sub!);
}

// joined notes that a name is followed, from where it was asked for if it was.
function joined(core: Core, fo: Follow, at: Position, since: Position | undefined): void {
  fo.state = "on";
  fo.tries = 0;
  const lost = { channel: fo.name, after: fo.lost, before: at.seq + 1, why: "bad_position" };
  let ch = core.chains.get(fo.name);
  if (fo.void && fo.wild) {
    fo.void = false;
    for (const [name, c] of core.chains) {
      if (c.follow === fo) core.chains.delete(name);
    }
    fo.pos = at;
    fo.told = at.seq;
    fo.voided = false;
    core.gap(fo, undefined, lost);
  } else if (fo.void && ch) {
    fo.void = false;
    const done = ch.done;
    ch.start(at);
    ch.done = done;
    core.gap(fo, ch, lost);
  } else if (fo.wild) {
    if (!since) fo.pos = fo.done = at;
    else if (at.epoch !== since.epoch) fo.next = at.epoch;
    fo.voided = false;
    for (const c of core.chains.values()) {
      if (c.follow === fo && c.epoch !== at.epoch) c.next = at.epoch;
    }
    endBriefs(core, fo);
  } else {
    if (!ch && fo.brief) return;
    ch ??= begin(core, fo.name, fo);
    if (!since) ch.start(at);
    else if (at.epoch !== since.epoch) ch.next = at.epoch;
    ch.voided = false;
  }
}

// reject deals with a name the server would not give.
function reject(core: Core, fo: Follow, code: string, message: string): void {
  const now = Date.now();
  const err = new OdinError(code, message, { channel: fo.name });
  if (fo.brief) {
    core.report(err);
    fo.state = "refused";
    return;
  }
  if (++fo.tries === 1) fo.since = now;
  fo.state = "wanted";
  fo.retryAt = now + core.clock.retry * 2 ** Math.min(fo.tries - 1, 4);
  const waited = now - fo.since >= core.clock.patience;
  if (code === "unrecoverable" || (code === "bad_position" && !waited)) {
    // The node has not reached its broker yet, or not what others have.
    if (fo.tries === 1) core.report(err);
  } else if (!fo.sub.settled) {
    settle(core, fo.sub, err);
  } else if (code === "bad_position") {
    core.report(err);
    fo.void = true;
    fo.retryAt = 0;
    fo.lost = core.chains.get(fo.name)?.at() ?? fo.pos.seq;
  } else if (code === "limit") {
    core.report(err);
    fo.retryAt = now + core.clock.retry * 16;
  } else {
    core.report(err);
    fo.state = "refused";
  }
}
