import type { Chain } from "./chain.js";
import type { Core } from "./core.js";
import { parseFrame, type Frame } from "./frames.js";
import type { Sub } from "./subscribe.js";
import { take } from "./take.js";
import { tend } from "./tend.js";
import { OdinError, type Position, type WebSocketLike } from "./types.js";

// One op on its way.
export interface Command {
  op: string;
  id: number;
  body: string;
  sent: number;
  sub?: Sub; // sub
  names?: string[]; // sub, unsub
  since?: Map<string, Position>; // sub: the positions of names
  chain?: Chain; // replay
}

// How a connection ended, as far as the socket says.
export interface Closed {
  code: number;
  reason: string;
}

// Frames that wait because a callback is still busy. At a quarter of it the
// socket is paused where it can be; beyond it the connection is given up, and
// what was not taken in comes again with the next.
const maxInbox = 8192;
const maxInboxLength = 16 << 20;

// Link is one connection from its socket's opening to its end.
export class Link {
  readonly opened = Date.now();
  heard = Date.now(); // when the last frame came
  hello: Frame | null = null;

  outbox: Command[] = []; // to be sent, in order
  waiting: Command[] = []; // sent and not answered, in order
  answered = 0; // when the last answer came, or a part of one
  unsubs: string[] = []; // names to be unsubscribed
  tokens = 0; // commands that may be sent
  refill = 0;
  paused = 0; // nothing is sent before
  tick = 0; // of the next checkpoint
  renew = 0; // of the token; 0: never
  bye: number | null = null;
  bad: OdinError | null = null; // why this side gave it up
  again = false; // and wants to be back at once
  held = false; // the socket is paused: silence says nothing

  private inbox: unknown[] = [];
  private head = 0;
  private length = 0;
  private closed: Closed | null = null;
  private pumping = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private due = 0; // when the timer should ring
  private nudged = false;
  private over = false;
  private finish!: (c: Closed) => void;

  // The end, once callbacks have had everything that came before it.
  readonly end = new Promise<Closed>((resolve) => (this.finish = resolve));

  constructor(
    private readonly core: Core,
    private readonly ws: WebSocketLike,
    private readonly greet: () => void,
  ) {
    ws.binaryType = "arraybuffer";
    ws.onmessage = (e: any) => this.take(e.data);
    ws.onerror = () => {}; // a close follows
    ws.onclose = (e: any) => this.shut({ code: e.code ?? 1006, reason: String(e.reason ?? "") });
    this.wait(core.clock.handshake);
  }

  private take(data: unknown): void {
    this.heard = Date.now();
    this.length += typeof data === "string" ? data.length : 64;
    this.inbox.push(data);
    const n = this.inbox.length - this.head;
    if (n > maxInbox || this.length > maxInboxLength) {
      this.bad = new OdinError("overflow", "callbacks are slower than the server; reconnecting after the last message taken in");
      this.again = true;
      this.drop();
      return;
    }
    if (n > maxInbox / 4 || this.length > maxInboxLength / 4) this.hold(true);
    this.pump();
  }

  // hold stops reading where the socket can, which makes the server see that
  // this client is slow.
  private hold(on: boolean): void {
    const ws = this.ws as { pause?: () => void; resume?: () => void };
    if (this.held === on || !ws.pause || !ws.resume) return;
    this.held = on;
    if (on) ws.pause();
    else {
      this.heard = Date.now();
      ws.resume();
    }
  }

  private pump(): void {
    if (this.pumping || this.over) return;
    this.pumping = true;
    void this.drain().finally(() => {
      this.pumping = false;
      if (!this.over && (this.head < this.inbox.length || this.closed)) this.pump();
    });
  }

  private async drain(): Promise<void> {
    while (this.head < this.inbox.length && !this.core.closing) {
      const data = this.inbox[this.head];
      this.inbox[this.head++] = undefined;
      this.length -= typeof data === "string" ? data.length : 64;
      if (this.head === this.inbox.length || this.head >= 4096) {
        this.inbox = this.inbox.slice(this.head);
        this.head = 0;
      }
      this.act(data);
      const pending = this.core.fire();
      if (pending) await pending;
      if (this.held && this.inbox.length - this.head < maxInbox / 8) this.hold(false);
    }
    if (this.closed) this.done(this.closed);
  }

  private act(data: unknown): void {
    let f: Frame;
    try {
      f = parseFrame(data);
      if (!this.hello && f.t !== "hello") throw new Error(`the first frame is ${f.t} and not hello`);
    } catch (cause) {
      // What it was is unknown, so what follows can't be trusted: the positions can.
      this.giveUp(new OdinError("bad_frame", String((cause as Error).message), { cause }));
      return;
    }
    if (this.hello) {
      take(this.core, this, f);
      return;
    }
    this.hello = f;
    this.greet();
  }

  // giveUp ends the connection for a reason of this side's; what it has sent and
  // nobody has looked at is not used.
  giveUp(why: OdinError, again = false): void {
    if (this.bad || this.over) return;
    this.bad = why;
    this.again = again;
    this.inbox = [];
    this.head = this.length = 0;
    this.drop();
  }

  // drop lets go of the socket without waiting for its goodbye.
  private drop(): void {
    const ws = this.ws as WebSocketLike & { terminate?: () => void };
    ws.onmessage = ws.onopen = ws.onclose = null;
    try {
      if (ws.terminate) ws.terminate();
      else ws.close();
    } catch {
      // It has gone already.
    }
    this.shut({ code: 1006, reason: "" });
  }

  private shut(c: Closed): void {
    if (this.closed) return;
    this.closed = c;
    clearTimeout(this.timer);
    this.pump();
  }

  private done(c: Closed): void {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.timer);
    this.finish(c);
  }

  // goodbye closes in order.
  goodbye(): void {
    if (this.over) return;
    const ws = this.ws;
    ws.onmessage = null;
    ws.onclose = null;
    this.inbox = [];
    this.head = this.length = 0;
    try {
      ws.close(1000);
    } catch {
      // It has gone already.
    }
    this.closed ??= { code: 1000, reason: "" };
    this.done(this.closed);
  }

  send(body: string): void {
    try {
      this.ws.send(body);
    } catch (cause) {
      this.giveUp(new OdinError("network", String(cause), { cause }));
    }
  }

  // awaits reports whether an op is on its way.
  awaits(op: string): boolean {
    return this.outbox.some((c) => c.op === op) || this.waiting.some((c) => c.op === op);
  }

  push(cmd: Omit<Command, "id" | "body" | "sent">, body: object): void {
    const id = ++this.core.lastId;
    this.outbox.push({ ...cmd, id, body: JSON.stringify({ op: cmd.op, id, ...body }), sent: 0 });
    this.nudge();
  }

  // nudge looks at the connection's commands and clocks once what is running
  // now has ended.
  nudge(): void {
    if (this.nudged || this.closed) return;
    this.nudged = true;
    queueMicrotask(() => {
      this.nudged = false;
      this.look();
    });
  }

  private look(): void {
    if (this.closed || this.over) return;
    clearTimeout(this.timer);
    if (!this.hello) {
      const left = this.opened + this.core.clock.handshake - Date.now();
      if (left <= 0) this.giveUp(new OdinError("network", "no greeting in time"));
      else this.wait(left);
      return;
    }
    this.wait(tend(this.core, this));
  }

  private wait(ms: number): void {
    if (this.closed) return;
    this.due = Date.now() + ms;
    this.timer = setTimeout(() => {
      const late = Date.now() - this.due;
      if (late > 1000) {
        // The page slept, or a callback was long: what came meanwhile has not
        // been looked at yet, so nobody was silent.
        this.heard += late;
        this.answered += late;
        for (const c of this.waiting) c.sent += late;
      }
      this.look();
    }, ms);
  }
}
