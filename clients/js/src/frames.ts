import type { Message, Position } from "./types.js";

// Any frame of the server's. Which members there are depends on t; parseFrame
// has looked at those that are used.
export interface Frame {
  t: string;
  text: string; // as it came
  id?: number;
  name: string; // ch, in msg, gap, stale and live; in err too where it is about one
  acks: Record<string, Position>; // ch, in ack

  seq: number;
  prev: number;
  ts: number;
  skip: number;
  d: unknown;

  after: number;
  before: number;
  why: string;
  epoch: string; // of why epoch, the new one's name

  code: string | number;
  message: string;
  retryMs: number;
  rej: Record<string, string>;

  conn: string;
  node: string;
  v: number;
  pingMs: number;
  burst: number;
  perSec: number;
}

// parseFrame reads a frame, and throws for one that lacks what its type must have.
export function parseFrame(text: unknown): Frame {
  if (typeof text !== "string") throw new Error("a binary message");
  const o: any = JSON.parse(text);
  if (typeof o !== "object" || o === null || typeof o.t !== "string" || o.t === "") {
    throw new Error('a frame without "t"');
  }
  const f: Frame = {
    t: o.t, text, name: "", acks: dict(),
    seq: o.seq, prev: o.prev, ts: number(o.ts), skip: number(o.skip), d: o.d,
    after: o.after, before: o.before, why: String(o.why ?? ""), epoch: String(o.epoch ?? ""),
    code: o.code ?? "", message: String(o.message ?? ""), retryMs: number(o.retry_ms), rej: Object.assign(dict(), o.rej),
    conn: String(o.conn ?? ""), node: String(o.node ?? ""), v: number(o.v), pingMs: number(o.ping_ms),
    burst: number(o.rate?.burst), perSec: number(o.rate?.per_sec),
  };
  if (o.id !== undefined) f.id = number(o.id);
  switch (o.t) {
    case "msg":
      if (!isSeq(o.seq) || !isSeq(o.prev) || o.prev >= o.seq || !("d" in o)) {
        throw new Error("a msg without seq, a lesser prev and d");
      }
      break;
    case "gap":
      if (!isSeq(o.after) || !isSeq(o.before)) throw new Error("a gap without after and before");
      break;
    case "err":
      if (typeof o.ch === "string") f.name = o.ch;
      break;
    case "ack":
      for (const [name, at] of Object.entries<any>(object(o.ch))) {
        if (typeof at?.epoch !== "string" || !isSeq(at.seq)) throw new Error("an ack without positions");
        f.acks[name] = { epoch: at.epoch, seq: at.seq };
      }
      break;
  }
  switch (o.t) {
    case "msg":
    case "gap":
    case "stale":
    case "live":
      if (typeof o.ch !== "string" || o.ch === "") throw new Error(`a ${o.t} without a channel`);
      f.name = o.ch;
  }
  return f;
}

// dict is an object that has what is put into it and nothing else: channels may be
// called __proto__ or constructor.
export function dict<T>(): Record<string, T> {
  return Object.create(null);
}

function number(v: unknown): number {
  return typeof v === "number" ? v : 0;
}

// Beyond 2^53 a number would be another one.
function isSeq(v: unknown): v is number {
  return typeof v === "number" && Number.isSafeInteger(v) && v >= 0;
}

function object(v: unknown): object {
  if (v === undefined) return {};
  if (typeof v !== "object" || v === null) throw new Error("an ack's ch is no object");
  return v;
}

// The message of a msg frame.
export class FrameMessage implements Message {
  readonly channel: string;
  readonly seq: number;
  readonly prev: number;
  readonly skip: number;
  readonly time: number;
  readonly data: unknown;
  readonly #text: string;

  constructor(f: Frame) {
    this.channel = f.name;
    this.seq = f.seq;
    this.prev = f.prev;
    this.skip = f.skip;
    this.time = f.ts;
    this.data = f.d;
    this.#text = f.text;
  }

  // d stands last, and nothing before it can hold its key.
  get raw(): string {
    const at = this.#text.indexOf(',"d":');
    return at < 0 ? JSON.stringify(this.data) : this.#text.slice(at + 5, -1);
  }
}

export function isWildcard(name: string): boolean {
  return name.endsWith(".*");
}

// matches reports whether a wildcard covers a channel or another wildcard.
export function matches(wildcard: string, name: string): boolean {
  return isWildcard(wildcard) && name.startsWith(wildcard.slice(0, -1));
}

// isName reports whether a channel or wildcard may be subscribed to.
export function isName(name: string): boolean {
  return name.length <= 128 && /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?$/.test(name);
}
