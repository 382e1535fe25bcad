import { Chain } from "./chain.js";
import type { Core } from "./core.js";
import { isName, isWildcard, matches } from "./frames.js";
import { OdinError, type Position, type SubscribeOptions } from "./types.js";

// maxFollows bounds the names and channels of a client.
export const maxFollows = 65536;

export type FollowState =
  | "wanted" // to be asked for
  | "asked" // and not answered
  | "on" // acknowledged
  | "refused"; // not again on this connection

const nowhere: Position = { epoch: "", seq: 0 };

// One name of a subscription.
export class Follow {
  state: FollowState = "wanted";
  tries = 0; // refused so often on this connection
  since = 0; // when it first was
  retryAt = 0; // not asked for before
  void = false; // ask without a position: the stream has not got it
  lost = 0; // the position that was void

  // A wildcard's own.
  readonly wild: boolean;
  pos = nowhere; // every match without a chain was delivered up to here
  told = 0; // a gap of the wildcard has announced up to here
  began = ""; // the epoch whose begin a gap of the wildcard has announced
  next = ""; // the epoch an ack named instead of pos's; its gap is still to come
  voided = false; // pos's epoch ended, and the new one's name isn't known yet
  listed = nowhere; // the head of the last checkpoint
  done = nowhere; // what positions() says

  constructor(
    readonly name: string,
    readonly sub: Sub,
    // A channel asked for by name only so that its position need not go in its
    // wildcard's command, which would be too long.
    readonly brief = false,
  ) {
    this.wild = isWildcard(name);
  }

  // forget undoes what held for one connection only.
  forget(): void {
    this.state = "wanted";
    this.tries = 0;
    this.since = 0;
    this.retryAt = 0;
    this.next = "";
    this.listed = nowhere;
  }
}

/** What one subscribe() follows. */
export interface Subscription {
  /** Stops following. After it no callback of the subscription begins but one
   * that is due already. */
  unsubscribe(): void;
}

export class Sub implements Subscription {
  follows: Follow[] = [];
  gone = false;
  settled = false;
  resolve!: () => void;
  reject!: (err: OdinError) => void;
  readonly ready = new Promise<void>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });

  constructor(
    private readonly core: Core,
    readonly opts: SubscribeOptions,
  ) {}

  unsubscribe(): void {
    remove(this.core, this);
  }
}

// add takes a subscription in, or throws.
export function add(core: Core, s: Sub): void {
  const opts = s.opts;
  const names = [...new Set(opts.channels ?? [])].sort();
  const wrong = (message: string) => new OdinError("options", message);
  if (core.closing || core.ended) throw core.err ?? new OdinError("ended", "the client is closed");
  if (names.length === 0 || typeof opts.onMessage !== "function") throw wrong("channels and onMessage are required");
  if (!opts.onGap && !core.opts.onGap) throw wrong("nobody would hear of a gap: set onGap, here or in dial's options");
  if (opts.mode !== undefined && opts.mode !== "all" && opts.mode !== "latest") throw wrong('mode is "all" or "latest"');
  const every = opts.every ?? 0;
  if (!(every >= 0 && every <= 3_600_000)) throw wrong("every is from 0 to an hour");
  for (const name of names) {
    if (typeof name !== "string" || !isName(name)) {
      throw new OdinError("bad_channel", "a channel is tokens of A-Z a-z 0-9 _ - joined by dots, at most 128 bytes, and may end in .*", { channel: String(name) });
    }
  }
  if (core.byName.size + names.length > maxFollows) throw new OdinError("limit", `a client follows at most ${maxFollows} names`);
  const clash = overlap(core, names);
  if (clash) {
    throw new OdinError("overlap", `a connection is given a channel once, and ${clash[1]} is followed already`, { channel: clash[0] });
  }
  for (const name of names) {
    const f = new Follow(name, s);
    core.byName.set(name, f);
    s.follows.push(f);
    const since = opts.since ?? {};
    const own = Object.hasOwn(since, name) ? since[name] : undefined;
    if (f.wild) {
      if (own) f.pos = f.done = own;
      for (const [ch, at] of Object.entries(since)) {
        if (!isWildcard(ch) && matches(name, ch) && isName(ch) && core.chains.size < maxFollows) begin(core, ch, f).resume(at);
      }
    } else if (own) {
      begin(core, name, f).resume(own);
    }
  }
  core.subs.push(s);
  core.nudge();
}

export function begin(core: Core, name: string, f: Follow): Chain {
  const ch = new Chain(name, f);
  core.chains.set(name, ch);
  return ch;
}

// overlap names two that would deliver the same channel, if there are any.
function overlap(core: Core, names: string[]): [string, string] | undefined {
  const all = new Set(names);
  for (const n of names) {
    if (core.byName.has(n)) return [n, n];
    const w = covering(n, (w) => all.has(w) || core.byName.has(w));
    if (w) return [n, w];
  }
  for (const n of core.byName.keys()) {
    const w = covering(n, (w) => all.has(w));
    if (w) return [w, n];
  }
  return undefined;
}

// covering returns a wildcard other than name itself that covers name and that
// has holds.
export function covering(name: string, has: (wildcard: string) => boolean): string {
  for (let i = name.indexOf("."); i >= 0; i = name.indexOf(".", i + 1)) {
    const w = name.slice(0, i + 1) + "*";
    if (w !== name && has(w)) return w;
  }
  return "";
}

// remove takes a subscription out.
export function remove(core: Core, s: Sub): void {
  if (s.gone) return;
  s.gone = true;
  core.subs = core.subs.filter((o) => o !== s);
  for (const [name, f] of core.byName) {
    if (f.sub !== s) continue;
    core.byName.delete(name);
    if (f.state === "asked" || f.state === "on") core.link?.unsubs.push(name);
  }
  for (const [name, ch] of core.chains) {
    if (ch.follow.sub === s) core.chains.delete(name);
  }
  core.nudge();
}

// settle ends the wait of subscribe().
export function settle(core: Core, s: Sub, err?: OdinError): void {
  if (s.settled) return;
  s.settled = true;
  if (err) {
    remove(core, s);
    s.reject(err);
  } else {
    s.resolve();
  }
}

// settleIf ends it once all is followed.
export function settleIf(core: Core, s: Sub): void {
  if (s.follows.every((f) => f.state === "on")) settle(core, s);
}

// owner is the name a channel is followed by, if its messages may come already.
export function owner(core: Core, channel: string): Follow | undefined {
  const exact = core.byName.get(channel);
  if (exact && !exact.brief) return exact.state === "on" ? exact : undefined;
  const f = core.byName.get(covering(channel, (w) => core.byName.has(w)));
  return f && (f.state === "on" || exact?.state === "on") ? f : undefined;
}

// chainOf is the chain of a channel, begun if it is new under its wildcard;
// undefined when nobody follows it, or has been acknowledged to.
export function chainOf(core: Core, channel: string): Chain | undefined {
  const f = owner(core, channel);
  if (!f) return undefined;
  let ch = core.chains.get(channel);
  if (!ch) {
    if (core.chains.size >= maxFollows) {
      core.fail(new OdinError("limit", `more than ${maxFollows} channels`, { channel }));
      return undefined;
    }
    ch = begin(core, channel, f);
    ch.start(f.pos);
    ch.voided = f.voided;
  }
  return ch;
}
