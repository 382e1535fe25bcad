import type { Stats } from "./stats.js";

/** A message with when it was made, Unix ms. */
export interface Sample {
  at: number;
  s: Stats;
}

// How many whole messages are kept: a minute, to compare with.
const kept = 61;

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
    if (last && at <= last.at) at = last.at + 0.001;
    this.rows.push({ at, row });
    if (this.rows.length > points + 2) this.rows.shift();
  }

  reset(): void {
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
  private samples: Sample[] = [];
  private rings = new Map(tracks.map((every) => [every * points, new Ring(every)]));
  private width = 0;

  constructor(private readonly pick: (now: Sample, before: Sample | undefined) => Row) {}

  get now(): Sample | undefined {
    return this.samples.at(-1);
  }

  /** The one before now. */
  get before(): Sample | undefined {
    return this.samples.at(-2);
  }

  add(sample: Sample): void {
    const before = this.now;
    if (before && sample.s.uptimeSeconds < before.s.uptimeSeconds) {
      this.lost(sample.at); // another process: counts begin again
      this.samples = [];
    }
    const row = this.pick(sample, this.now);
    this.samples.push(sample);
    if (this.samples.length > kept) this.samples.shift();
    this.width = row.length;
    for (const ring of this.rings.values()) ring.add(sample.at / 1000, row);
  }

  /** Notes that nothing is known from here to the next sample. */
  lost(at: number): void {
    for (const ring of this.rings.values()) {
      ring.reset();
      ring.add(at / 1000, new Array<null>(this.width).fill(null));
    }
  }

  columns(seconds: number, series: number[]): Row[] {
    return this.rings.get(seconds)!.columns(series);
  }

  /** How much a count has grown in the last minute, or since the page knows of it. */
  lately(of: (s: Stats) => number): number {
    const [first, last] = [this.samples[0], this.now];
    return first && last ? Math.max(0, of(last.s) - of(first.s)) : 0;
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
