import { span } from "./format.js";
import type { Stats } from "./stats.js";

/** A message with when it was made, Unix ms. */
export interface Sample {
  at: number;
  s: Stats;
}

// For how long whole messages are kept, seconds of the gateway's clock: a minute, to
// compare with.
const kept = 60.5;

// A track keeps so many points of each series; each point stands for so many
// seconds. Both tracks are bounded: 300 points each.
const points = 300;
const tracks = [1, 12];

type Row = (number | null)[];

// Ring is the last points of all series, oldest first.
class Ring {
  private rows: { at: number; row: Row }[] = [];
  private sums: number[] = [];
  private filled = 0;

  constructor(private readonly every: number) {}

  add(at: number, row: Row): void {
    if (this.every === 1 || row.some((v) => v === null)) {
      this.push(at, row);
      return;
    }
    row.forEach((v, i) => (this.sums[i] = (this.sums[i] ?? 0) + v!));
    if (++this.filled < this.every) return;
    this.push(at, this.sums.map((v) => v / this.filled));
    this.reset();
  }

  private push(at: number, row: Row): void {
    const last = this.rows.at(-1);
    if (last && row.every((v) => v === null) && last.row.every((v) => v === null)) return; // one break is enough
    if (last && at <= last.at) {
      // The gateway's clock was put back: what is known goes back with it.
      const by = last.at - at + 0.001;
      for (const r of this.rows) r.at -= by;
    }
    this.rows.push({ at, row });
    if (this.rows.length > points + 2) this.rows.shift();
  }

  /** Ends what is known here, until the next point. */
  break(): void {
    this.reset();
    const last = this.rows.at(-1);
    if (last) this.push(last.at + 0.001, last.row.map(() => null));
  }

  private reset(): void {
    this.sums = [];
    this.filled = 0;
  }

  /** Times, then each series. */
  columns(series: number[]): Row[] {
    return [this.rows.map((r) => r.at), ...series.map((i) => this.rows.map((r) => r.row[i] ?? null))];
  }
}

/** What the page remembers: the last minute whole, an hour of a few series. */
export class History {
  private samples: Sample[] = []; // of one process, none older than a minute
  private last: Sample | undefined; // before now
  private rings = new Map(tracks.map((every) => [every * points, new Ring(every)]));

  constructor(private readonly pick: (now: Sample, before: Sample | undefined) => Row) {}

  get now(): Sample | undefined {
    return this.samples.at(-1);
  }

  /** The one before now, however long ago. */
  get before(): Sample | undefined {
    return this.last;
  }

  add(sample: Sample): void {
    const up = sample.s.uptimeSeconds;
    if (this.now && up < this.now.s.uptimeSeconds) this.restarted();
    this.last = this.now;
    const row = this.pick(sample, this.last);
    this.samples.push(sample);
    while (up - this.samples[0]!.s.uptimeSeconds > kept) this.samples.shift();
    for (const ring of this.rings.values()) ring.add(sample.at / 1000, row);
  }

  /** Notes that nothing is known from here to the next sample. */
  lost(): void {
    for (const ring of this.rings.values()) ring.break();
  }

  /** Notes that the next sample is of another process, which counts from its own start. */
  restarted(): void {
    this.lost();
    this.samples = [];
    this.last = undefined;
  }

  columns(seconds: number, series: number[]): Row[] {
    return this.rings.get(seconds)!.columns(series);
  }

  /** How much a count has grown in the last minute, or since the page knows of it. */
  lately(of: (s: Stats) => number): number {
    const [first, last] = [this.samples[0], this.now];
    return first && last ? Math.max(0, of(last.s) - of(first.s)) : 0;
  }

  /** For how long that is, seconds: less than 60 while the page is new. */
  get known(): number {
    const [first, last] = [this.samples[0], this.now];
    return first && last ? last.s.uptimeSeconds - first.s.uptimeSeconds : 0;
  }

  /** The same in words. */
  get latelySaid(): string {
    return this.known > 59 ? "last minute" : `last ${span(Math.max(1, Math.round(this.known)))}`;
  }

  /** A message of a minute ago, or the first the page knows. */
  get minuteAgo(): Sample | undefined {
    return this.samples[0];
  }
}

/** How fast a count grows, a second, by the gateway's own clock. */
export function perSecond(now: Sample, before: Sample | undefined, of: (s: Stats) => number): number | null {
  if (!before) return null;
  const span = now.s.uptimeSeconds - before.s.uptimeSeconds;
  return span > 0 ? Math.max(0, of(now.s) - of(before.s)) / span : null;
}
