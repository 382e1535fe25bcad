import { Backoff, closeFate, movesOn, refusesToken, statusFate, type Fate } from "./backoff.js";
import { Core } from "./core.js";
import { Link, type Closed } from "./link.js";
import { add, settle, Sub, type Subscription } from "./subscribe.js";
import { askToken, authenticate, burst, checkpointIn } from "./tend.js";
import {
  OdinError,
  type Clock,
  type Options,
  type Position,
  type Positions,
  type Stats,
  type SubscribeOptions,
  type WebSocketConstructor,
  type WebSocketLike,
} from "./types.js";

const defaultClock: Clock = {
  handshake: 10_000, hb: 15_000, answer: 30_000, stable: 10_000, retry: 500, patience: 15_000,
};

/** Makes a client and waits for its first connection. It goes on trying until
 * options.signal says otherwise, except if the server refuses in a way that
 * trying again doesn't change. */
export async function dial(url: string, options: Options = {}): Promise<Client> {
  const urls = [url, ...(options.fallback ?? [])];
  for (const u of urls) {
    if (!/^wss?:\/\/[^/]/.test(u)) throw new OdinError("options", `want ws://HOST/ws or wss://HOST/ws, not ${JSON.stringify(u)}`);
  }
  const WS = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
  if (!WS) throw new OdinError("options", "this runtime has no WebSocket: pass one as options.WebSocket, such as npm's ws");
  options.signal?.throwIfAborted();
  const runner = new Runner(urls, WS, options);
  const client = new Client(runner);
  await new Promise<void>((resolve, reject) => {
    const stop = () => {
      client.close();
      reject(options.signal!.reason);
    };
    options.signal?.addEventListener("abort", stop);
    void Promise.race([runner.greeted, runner.done]).then(() => {
      options.signal?.removeEventListener("abort", stop);
      if (runner.core.greeted) resolve();
      else reject(runner.core.err);
    });
  });
  return client;
}

/** Keeps one connection to an Odin gateway. Made by dial(). */
export class Client {
  readonly #runner: Runner;

  /** Resolves when the client has ended, by close() or by a refusal that is final. */
  readonly done: Promise<void>;

  /** @internal */
  constructor(runner: Runner) {
    this.#runner = runner;
    this.done = runner.done;
  }

  /** Why the client ended, null while it runs. */
  get error(): OdinError | null {
    const { core } = this.#runner;
    return core.ended ? core.err : null;
  }

  /** Follows channels until unsubscribe() or close(), over reconnects. Resolves
   * when the server has acknowledged all of them; rejects with an OdinError, and
   * follows none, if it refuses one. Messages may come before it resolves.
   *
   * A callback that returns a promise is waited for. One must not wait for
   * subscribe(), whose answer could then not be read. */
  async subscribe(options: SubscribeOptions): Promise<Subscription> {
    const { core } = this.#runner;
    const { signal } = options;
    signal?.throwIfAborted();
    const s = new Sub(core, options);
    add(core, s);
    const stop = () => {
      if (s.settled) return;
      s.settled = true;
      s.unsubscribe();
      s.reject(signal!.reason);
    };
    signal?.addEventListener("abort", stop);
    try {
      await s.ready;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
    return s;
  }

  /** How far everything followed has been handled: a message counts when its
   * callback has returned, or its promise is settled. */
  positions(): Positions {
    const { core } = this.#runner;
    const out: [string, Position][] = [];
    for (const [name, ch] of core.chains) if (ch.done.epoch !== "") out.push([name, ch.done]);
    for (const [name, f] of core.byName) if (f.wild && f.done.epoch !== "") out.push([name, f.done]);
    return Object.fromEntries(out); // also of __proto__, which can't be assigned
  }

  /** Counters since dial(). */
  stats(): Stats {
    return { ...this.#runner.core.stats };
  }

  /** Says goodbye and ends the client. After it no callback begins. */
  close(): void {
    this.#runner.close();
  }
}

// How an attempt or a connection ended.
interface End {
  fate: Fate;
  moves: boolean; // the next node is tried
  asked: number; // the server's word for when to return
  err: OdinError;
  good: boolean; // it lasted
}

// Runner connects, and comes back, until the client ends.
class Runner {
  readonly core: Core;
  readonly done: Promise<void>;
  readonly greeted: Promise<void>;
  private greet!: () => void;
  private wake: (() => void) | null = null; // from a sleep
  private link: Link | null = null; // greeted or not

  constructor(
    private readonly urls: string[],
    private readonly WS: WebSocketConstructor,
    options: Options,
  ) {
    this.core = new Core(
      {
        ...options,
        minBackoff: options.minBackoff ?? 500,
        maxBackoff: options.maxBackoff ?? 30_000,
        maxMessage: options.maxMessage ?? 64 << 10,
        checkpoint: options.checkpoint ?? 300_000,
      },
      { ...defaultClock, ...options.clock },
    );
    this.greeted = new Promise((resolve) => (this.greet = resolve));
    this.done = this.run();
  }

  close(): void {
    const { core } = this;
    if (core.closing || core.ended) return;
    core.closing = true;
    this.wake?.();
    this.link?.goodbye();
  }

  private async run(): Promise<void> {
    const { core, urls } = this;
    const backoff = new Backoff(core.opts.minBackoff, core.opts.maxBackoff);
    const notBefore = urls.map(() => 0);
    let at = 0;
    let strangers = 0;
    for (;;) {
      const e = await this.attempt(urls[at]!);
      if (core.closing) break;
      if (e.good) backoff.failures = strangers = 0;
      // Another token may do; the same one won't.
      if (e.fate === "reauth" && (++strangers > 3 || !core.opts.token)) e.fate = "stop";
      e.err.fatal = e.fate === "stop";
      core.err = e.err;
      core.report(e.err);
      if (e.fate === "stop") {
        core.announce({ connected: false, url: urls[at]!, error: e.err });
        await core.fire();
        break;
      }
      let asked = e.asked;
      if (e.moves) {
        notBefore[at] = Date.now() + asked;
        at = (at + 1) % urls.length;
        if (e.fate !== "drained") asked = Math.max(0, notBefore[at]! - Date.now());
      }
      const retryIn = Math.round(backoff.next(e.fate, asked));
      core.announce({ connected: false, url: urls[at]!, retryIn, error: e.err });
      await core.fire();
      await this.sleep(retryIn);
      if (core.closing) break;
    }
    core.ended = true;
    if (core.closing) core.err = new OdinError("ended", "the client is closed");
    for (const s of [...core.subs]) settle(core, s, core.err!);
  }

  private sleep(ms: number): Promise<void> {
    if (this.core.closing) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  // attempt connects to a node and serves the connection to its end.
  private async attempt(url: string): Promise<End> {
    const { core } = this;
    let token: { value: string; renew: number } | undefined;
    if (core.opts.token) {
      try {
        token = await askToken(core);
      } catch (cause) {
        return { fate: "lost", moves: false, asked: 0, good: false, err: new OdinError("token", String(cause), { cause }) };
      }
      if (token.value === core.token && core.err && refusesToken(core.err.status)) {
        const err = new OdinError(core.err.code, "the same token again", { status: core.err.status! });
        return { fate: "stop", moves: false, asked: 0, good: false, err };
      }
    }
    let auth = core.opts.auth ?? (core.opts.WebSocket ? "header" : "protocol");
    // No subprotocol may be called so; by op it can be shown.
    if (auth === "protocol" && !/^[A-Za-z0-9._~+-]+$/.test(token?.value ?? "")) auth = "op";
    const shown = token !== undefined && auth !== "op";
    let refused: Refusal | undefined;
    let link: Link;
    try {
      if (core.closing) throw new Error("closed");
      const protocols = ["odin.v1.json"];
      if (shown && auth === "protocol") protocols.push(`odin.token.${token!.value}`);
      const ws = shown && auth === "header"
        ? new this.WS(url, protocols, { headers: { Authorization: `Bearer ${token!.value}` } })
        : new this.WS(url, protocols);
      link = new Link(core, ws, () => this.hello(link, url, token, shown));
      watchRefusal(ws, (r) => (refused = r));
    } catch (cause) {
      return { fate: "lost", moves: true, asked: 0, good: false, err: new OdinError("network", String(cause), { cause }) };
    }
    if (token && shown) core.token = token.value;
    this.link = link;
    const closed = await link.end;
    this.link = core.link = null;
    this.forget();
    const wrong = link.hello && link.hello.v !== 1;
    if (wrong) {
      return { fate: "stop", moves: false, asked: 0, good: false, err: link.bad! };
    }
    if (refused && !link.hello && !link.bad) {
      const { status, message, retryAfter } = refused;
      return {
        fate: statusFate(status, core.greeted), moves: status !== 401, asked: retryAfter, good: false,
        err: new OdinError("refused", message, { status }),
      };
    }
    return this.ended(link, closed);
  }

  // hello takes the greeting.
  private hello(l: Link, url: string, token: { value: string; renew: number } | undefined, shown: boolean): void {
    const { core } = this;
    const f = l.hello!;
    if (f.v !== 1) {
      l.giveUp(new OdinError("bad_frame", `the server speaks version ${f.v} of the protocol, this client 1`));
      return;
    }
    core.link = l;
    l.tokens = burst(l);
    l.refill = Date.now();
    l.tick = Date.now() + checkpointIn(core);
    core.stats.connects++;
    core.greeted = true;
    this.greet();
    core.announce({ connected: true, url, node: f.node, conn: f.conn });
    if (token && shown) l.renew = token.renew;
    else if (token) authenticate(core, l, token);
    l.nudge();
  }

  // ended puts the end of a connection into words.
  private ended(l: Link, closed: Closed): End {
    const good = l.hello !== null && Date.now() - l.opened >= this.core.clock.stable;
    const e: End = { fate: closeFate(closed.code), moves: movesOn(closed.code), asked: 0, good, err: l.bad! };
    if (l.bad) {
      e.fate = l.again ? "atOnce" : refusesToken(l.bad.status) ? "reauth" : "lost";
      e.moves = e.fate === "lost";
    } else if (closed.code === 1006) {
      e.err = new OdinError("network", l.hello ? "the connection broke" : "no connection");
    } else {
      e.err = new OdinError("closed", closed.reason, { status: closed.code });
    }
    if (l.bye !== null && e.fate !== "stop") {
      e.fate = "drained";
      e.moves = true;
      e.asked = l.bye;
    }
    return e;
  }

  // forget undoes what held for the connection only.
  private forget(): void {
    const { core } = this;
    for (const [name, f] of core.byName) {
      if (f.brief) core.byName.delete(name);
      else f.forget();
    }
    for (const ch of core.chains.values()) {
      ch.hole = null;
      ch.next = "";
    }
  }
}

interface Refusal {
  status: number;
  message: string;
  retryAfter: number; // ms
}

// watchRefusal tells of a handshake's refusal, which npm's ws shows and browsers
// don't.
function watchRefusal(ws: WebSocketLike, tell: (r: Refusal) => void): void {
  const on = (ws as { on?: (event: string, f: (req: any, res: any) => void) => void }).on;
  if (typeof on !== "function") return;
  on.call(ws, "unexpected-response", (req: any, res: any) => {
    const refusal: Refusal = { status: Number(res.statusCode), message: "", retryAfter: 0 };
    const seconds = Number(res.headers?.["retry-after"]);
    if (seconds > 0) refusal.retryAfter = Math.min(seconds, 3600) * 1000;
    let body = "";
    let told = false;
    const end = () => {
      if (told) return;
      told = true;
      clearTimeout(timer);
      try {
        const o = JSON.parse(body);
        refusal.message = String(o.message ?? "");
        if (o.retry_after_ms > 0) refusal.retryAfter = Math.min(Number(o.retry_after_ms), 3_600_000);
      } catch {
        // Whatever else answers may not speak JSON.
      }
      tell(refusal);
      req.destroy();
      ws.onclose?.({ code: 1006, reason: "" });
    };
    const timer = setTimeout(end, 1000);
    res.setEncoding?.("utf8");
    res.on("data", (part: string) => (body.length < 1024 ? (body += part) : end()));
    res.on("end", end);
    res.on("error", end);
  });
}
