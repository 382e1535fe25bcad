import type { Chain } from "./chain.js";
import type { Link } from "./link.js";
import type { Follow, Sub } from "./subscribe.js";
import { OdinError, type Clock, type Gap, type Options, type Position, type State, type Stats } from "./types.js";

// A callback that is due, and what has been handled once it returned.
interface Due {
  call: () => unknown;
  of?: Chain | Follow;
  at?: Position;
}

// Core is what a client knows; the modules around it are its verbs.
export class Core {
  readonly byName = new Map<string, Follow>(); // what is followed
  readonly chains = new Map<string, Chain>(); // what is known of channels
  subs: Sub[] = []; // in the order they were made
  link: Link | null = null; // the connection
  lastId = 0; // of a command
  due: Due[] = []; // callbacks
  token = ""; // the last one shown
  greeted = false; // a server has said hello
  closing = false;
  ended = false;
  err: OdinError | null = null; // the last failure; once ended, why
  readonly stats: Stats = {
    messages: 0, skipped: 0, duplicates: 0, strays: 0, gaps: 0, unexplained: 0, repaired: 0, connects: 0, rateLimited: 0,
  };

  constructor(
    readonly opts: Options & { minBackoff: number; maxBackoff: number; maxMessage: number; checkpoint: number },
    readonly clock: Clock,
  ) {}

  nudge(): void {
    this.link?.nudge();
  }

  // fail gives the connection up for a reason of this side's.
  fail(why: OdinError, again = false): void {
    this.link?.giveUp(why, again);
  }

  report(err: OdinError): void {
    const { onError } = this.opts;
    if (onError) this.due.push({ call: () => onError.call(this.opts, err) });
  }

  announce(state: State): void {
    const { onState } = this.opts;
    if (onState) this.due.push({ call: () => onState.call(this.opts, state) });
  }

  // gap makes a gap due; ch is what it is about, absent for a wildcard.
  gap(f: Follow, ch: Chain | undefined, gap: Gap): void {
    this.stats.gaps++;
    const on = f.sub.opts.onGap ? f.sub.opts : this.opts;
    this.due.push({ call: () => on.onGap?.(gap), of: ch ?? f, at: ch ? ch.position() : f.pos });
  }

  // fire runs the callbacks that are due, one after the other. It returns a
  // promise only if one of them did.
  fire(): Promise<void> | undefined {
    for (;;) {
      if (this.closing) this.due = [];
      const e = this.due.shift();
      if (!e) return undefined;
      try {
        const r: any = e.call();
        if (typeof r?.then === "function") {
          return Promise.resolve(r)
            .catch((cause) => this.threw(cause))
            .then(() => {
              this.handled(e);
              return this.fire();
            });
        }
      } catch (cause) {
        this.threw(cause);
      }
      this.handled(e);
    }
  }

  private handled(e: Due): void {
    if (e.of && e.at) e.of.done = e.at;
  }

  // What a callback throws is reported, and by an onError to nobody.
  private threw(cause: unknown): void {
    const err = new OdinError("handler", String(cause), { cause });
    try {
      const r: any = this.opts.onError?.(err);
      if (typeof r?.then === "function") Promise.resolve(r).catch(() => {});
    } catch {
      // It has been told once.
    }
  }
}
