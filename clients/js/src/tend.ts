import type { Core } from "./core.js";
import { dict } from "./frames.js";
import type { Link } from "./link.js";
import { begin, covering, Follow, owner, type Sub } from "./subscribe.js";
import { OdinError, type Position, type Positions, type Token } from "./types.js";

// maxWaiting bounds the commands that are sent and not answered.
const maxWaiting = 16;

// burst is how many commands go out at once. A tenth stays for what the server
// counts differently: commands sent apart may arrive together.
export function burst(l: Link): number {
  return l.hello && l.hello.burst > 0 ? Math.max(1, 0.9 * l.hello.burst) : 90;
}

function perMs(l: Link): number {
  return (l.hello && l.hello.perSec > 0 ? 0.95 * l.hello.perSec : 9) / 1000;
}

// tend plans and sends a connection's commands, watches its clocks, and says
// when to look again.
export function tend(core: Core, l: Link): number {
  const now = Date.now();
  const hb = core.clock.hb;
  const ping = l.hello?.pingMs ?? 0;
  const limit = 2 * ping + hb; // of silence: the server's heartbeat comes after hb
  let wait = Math.min(5000, limit / 8);
  if (!l.held) {
    const quiet = now - l.heard;
    if (quiet >= limit) {
      l.giveUp(new OdinError("silent", `nothing came for ${quiet} ms`));
      return 0;
    }
    const oldest = l.waiting[0];
    if (oldest) {
      // Commands wait for those before them.
      const left = core.clock.answer - (now - Math.max(oldest.sent, l.answered));
      if (left <= 0) {
        l.giveUp(new OdinError("silent", `no answer to ${oldest.op}`));
        return 0;
      }
      wait = Math.min(wait, left);
    }
    if (quiet >= hb + ping / 2 && l.bye === null && !l.awaits("ping")) l.push({ op: "ping" }, {});
  }
  if (l.bye === null) plan(core, l, now);

  l.tokens = Math.min(burst(l), l.tokens + (now - l.refill) * perMs(l));
  l.refill = now;
  while (l.outbox.length > 0 && l.waiting.length < maxWaiting && now >= l.paused && l.tokens >= 1) {
    const cmd = l.outbox.shift()!;
    l.tokens--;
    cmd.sent = now;
    l.waiting.push(cmd);
    l.send(cmd.body);
    if (l.bad) return 0;
  }
  if (l.outbox.length > 0) wait = Math.min(wait, Math.max((1 - l.tokens) / perMs(l), l.paused - now, 1));
  for (const s of core.subs) {
    for (const f of s.follows) {
      if (f.state === "wanted" && f.retryAt > 0) wait = Math.min(wait, Math.max(f.retryAt - now, 1));
    }
  }
  if (l.renew > 0) {
    if (now >= l.renew) {
      l.renew = 0;
      void reauthenticate(core, l);
    } else wait = Math.min(wait, l.renew - now);
  }
  return Math.min(wait, Math.max(l.tick - now, 1));
}

// plan turns what is wanted into commands. What is not planned now is when
// answers have made room.
function plan(core: Core, l: Link, now: number): void {
  if (l.outbox.length < maxWaiting) {
    planUnsubs(core, l);
    for (const s of core.subs) planSub(core, l, s, now);
  }
  if (now >= l.tick) {
    l.tick = now + checkpointIn(core);
    for (const f of core.byName.values()) {
      if (f.wild && f.state === "on") {
        askList(l);
        break;
      }
    }
  }
}

// bodyLimit is how long a command may be.
function bodyLimit(core: Core): number {
  return Math.max(1024, core.opts.maxMessage - core.opts.maxMessage / 16);
}

function planUnsubs(core: Core, l: Link): void {
  while (l.unsubs.length > 0) {
    let n = 0;
    for (let size = 64; n < l.unsubs.length; n++) {
      size += l.unsubs[n]!.length + 3;
      if (size > bodyLimit(core)) break;
    }
    const names = l.unsubs.splice(0, Math.max(1, n));
    l.push({ op: "unsub", names }, { ch: names });
  }
}

// planSub queues the commands that ask for what a subscription wants and may ask
// for now, as many names in each as fit.
function planSub(core: Core, l: Link, s: Sub, now: number): void {
  const most = bodyLimit(core) - 256;
  let batch: Follow[] = [];
  let since: Positions = dict(); // __proto__ is a channel's name like any other
  let size = 0;
  const flush = () => {
    if (batch.length === 0) return;
    const names = batch.map((f) => f.name);
    for (const f of batch) f.state = "asked";
    l.push(
      { op: "sub", sub: s, names, since: new Map(names.filter((n) => n in since).map((n) => [n, since[n]!])) },
      {
        ch: names,
        ...(Object.keys(since).length > 0 && { since }),
        ...(s.opts.mode === "latest" && { mode: "latest", ms: Math.round(s.opts.every ?? 0) }),
        ...(s.opts.slowLatest && { slow: "latest" }),
        ...(s.opts.snapshot && { snap: true }),
      },
    );
    batch = [];
    since = dict();
    size = 0;
  };
  const put = (f: Follow, own: Map<string, Position>, n: number) => {
    if (size + n > most) flush();
    batch.push(f);
    for (const [name, at] of own) since[name] = at;
    size += n;
  };
  for (const f of s.follows) {
    if (f.state !== "wanted" || now < f.retryAt) continue;
    const own = sinceOf(core, f);
    const length = () => [...own].reduce((n, [name, at]) => n + sinceLength(name, at), f.name.length + 3);
    if (f.wild && length() > most) {
      // Its channels are asked for by name first; once the wildcard is
      // acknowledged the names are given back, and it goes on with them.
      for (const [name, at] of [...own]) {
        if (name === f.name) continue;
        const brief = new Follow(name, s, true);
        core.byName.set(name, brief);
        put(brief, new Map([[name, at]]), sinceLength(name, at) + name.length + 3);
        own.delete(name);
      }
    }
    put(f, own, length());
  }
  flush();
}

// sinceOf is the positions a name is asked for with.
function sinceOf(core: Core, f: Follow): Map<string, Position> {
  const own = new Map<string, Position>();
  if (f.void) return own;
  if (!f.wild) {
    const ch = core.chains.get(f.name);
    if (ch && ch.epoch !== "") own.set(f.name, ch.position());
    return own;
  }
  if (f.pos.epoch !== "") own.set(f.name, f.pos);
  for (const [name, ch] of core.chains) {
    // One that stands at an epoch whose end was told of its wildcard goes by that.
    if (ch.follow === f && ch.epoch !== "" && (f.began === "" || f.began === ch.epoch)) own.set(name, ch.position());
  }
  return own;
}

// sinceLength is at least what a position takes in a command.
function sinceLength(name: string, at: Position): number {
  return name.length + 2 * at.epoch.length + '"":{"epoch":"","seq":},'.length + 20;
}

// checkpointIn is when the wildcards' positions are brought up to date next,
// spread so that not all clients ask at once.
export function checkpointIn(core: Core): number {
  return core.opts.checkpoint * (0.5 + Math.random());
}

// askList asks how far everything has been given.
export function askList(l: Link): void {
  if (!l.awaits("list")) l.push({ op: "list" }, {});
}

// checkpoint takes the answer. It brings a wildcard up to the head of the answer
// before this one: what was then new to the node has been listed, or given, by now.
export function checkpoint(core: Core, acks: Record<string, Position>): void {
  for (const [name, at] of Object.entries(acks)) {
    const wild = core.byName.get(name);
    if (!wild?.wild) {
      listed(core, name, at);
      continue;
    }
    if (wild.state !== "on") continue;
    if (wild.voided) {
      wild.pos = wild.done = { epoch: at.epoch, seq: wild.pos.seq };
      wild.voided = false;
      wild.listed = { epoch: "", seq: 0 };
    } else if (at.epoch !== wild.pos.epoch) {
      // Its channels have been quiet since the stream was made anew.
      const old = wild.pos.seq;
      wild.pos = { epoch: at.epoch, seq: 0 };
      wild.told = 0;
      wild.began = at.epoch;
      wild.listed = { epoch: "", seq: 0 };
      core.gap(wild, undefined, { channel: name, after: old, before: 1, why: "epoch", epoch: at.epoch });
    } else {
      if (wild.listed.epoch === at.epoch && wild.listed.seq > wild.pos.seq) wild.pos = wild.done = wild.listed;
      wild.listed = at;
    }
  }
}

// listed notes how far a channel has been given, where nothing better is known.
function listed(core: Core, name: string, at: Position): void {
  const f = owner(core, name);
  if (!f) return;
  const ch = core.chains.get(name);
  if (!ch && f.wild && at.epoch === f.pos.epoch && !f.voided) {
    begin(core, name, f).start(at);
  } else if (ch?.voided) {
    ch.epoch = at.epoch;
    ch.voided = false;
    ch.done = ch.position();
  }
}

// endBriefs gives back the names that carried a wildcard's positions.
export function endBriefs(core: Core, wild: Follow): void {
  for (const [name, f] of core.byName) {
    if (!f.brief || covering(name, (w) => w === wild.name) === "") continue;
    core.byName.delete(name);
    if (f.state === "on") core.link?.unsubs.push(name);
  }
  core.nudge();
}

// askToken asks the user for a token, no longer than a handshake may take.
export async function askToken(core: Core): Promise<{ value: string; renew: number }> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("no token in time")), core.clock.handshake);
  });
  try {
    const t: Token | string = await Promise.race([Promise.resolve(core.opts.token!()), late]);
    if (typeof t === "string") return { value: t, renew: 0 };
    return { value: t.value, renew: t.expires === undefined ? 0 : renewal(+t.expires, Date.now()) };
  } finally {
    clearTimeout(timer);
  }
}

// renewal is when a token is replaced: after four fifths of its life, at most a
// minute before its end.
function renewal(expires: number, now: number): number {
  const left = Math.max(0, expires - now);
  return now + Math.max(left * 0.8, left - 60_000);
}

// reauthenticate sends a new token before the old one ends.
async function reauthenticate(core: Core, l: Link): Promise<void> {
  const later = () => {
    l.renew = Date.now() + 10 * core.clock.retry;
  };
  try {
    const t = await askToken(core);
    if (core.link !== l) return;
    if (t.value === core.token) later(); // not made anew yet
    else authenticate(core, l, t);
  } catch (cause) {
    if (core.link !== l) return;
    core.report(new OdinError("token", String(cause), { cause }));
    later();
  }
  l.nudge();
}

export function authenticate(core: Core, l: Link, t: { value: string; renew: number }): void {
  core.token = t.value;
  l.renew = t.renew;
  l.push({ op: "auth" }, { token: t.value });
}
