import type { Frame } from "./frames.js";
import type { Follow } from "./subscribe.js";
import type { Position } from "./types.js";

export type Verdict =
  | "accept"
  | "duplicate" // had before
  | "unexplained" // messages are missing, and nothing said so
  | "inconsistent"; // nothing is missing, but prev is not what it must be

// What is known of one channel.
export class Chain {
  epoch = ""; // of seq and told
  seq = 0; // the last message; 0: none yet
  exact = false; // seq is a message's own, so the next prev is it and no less
  told = 0; // up to here everything was delivered, or announced as missing

  next = ""; // the epoch an ack named instead; its gap is still to come
  voided = false; // the epoch ended, and the new one's name isn't known yet

  done: Position = { epoch: "", seq: 0 }; // what positions() says: seq and told, once handled
  hole: Hole | null = null; // being repaired
  tried = -1; // where the hole begins that has cost a reconnect already

  constructor(
    readonly name: string,
    readonly follow: Follow,
  ) {}

  // at is where the channel stands: everything up to it is accounted for.
  at(): number {
    return Math.max(this.seq, this.told);
  }

  position(): Position {
    return { epoch: this.epoch, seq: this.at() };
  }

  // start begins at a position that is no message's.
  start(at: Position): void {
    this.epoch = at.epoch;
    this.seq = 0;
    this.exact = false;
    this.told = at.seq;
    this.next = "";
    this.voided = false;
    this.done = at;
  }

  // resume begins at a position whose messages have been handled.
  resume(at: Position): void {
    this.start(at);
    this.seq = at.seq;
  }

  // check judges a message by the rule: prev is the last seq, or what lies
  // between was announced, by a gap or by skip. toldToo is what a gap of the
  // wildcard has announced.
  check(seq: number, prev: number, skipped: boolean, toldToo: number): Verdict {
    if (seq <= this.seq) return "duplicate";
    if (prev <= Math.max(this.seq, this.told, toldToo)) {
      return this.exact && prev < this.seq ? "inconsistent" : "accept";
    }
    return skipped ? "accept" : "unexplained";
  }

  // have notes a message as the last.
  have(seq: number): void {
    this.seq = seq;
    this.exact = true;
    this.told = 0;
  }

  // missing notes an announced gap. epoch is the new one's name, if the gap says so.
  missing(before: number, why: string, epoch = ""): void {
    if (why === "epoch") {
      if (epoch || this.next) {
        this.epoch = epoch || this.next;
        this.next = "";
        this.voided = false;
      } else {
        this.voided = true;
      }
      this.seq = 0;
      this.exact = false;
      this.told = 0;
    }
    this.told = Math.max(this.told, before - 1);
  }
}

// Bounds of what is held back for one hole; beyond them the client reconnects.
export const maxHeld = 4096;
const maxHeldLength = 8 << 20;

// A jump that nothing explained, while the client tries to fill it.
export class Hole {
  readonly held: Frame[] = []; // what came after it, msg and gap
  bad = false; // the answer has a hole itself: the rest of it is not used
  private length = 0;

  constructor(readonly to: number) {} // the last missing number

  // hold keeps a frame for after the repair, and reports whether it had room.
  hold(f: Frame): boolean {
    this.length += f.text.length;
    if (this.held.length >= maxHeld || this.length > maxHeldLength) return false;
    this.held.push(f);
    return true;
  }
}
