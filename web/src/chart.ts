import uPlot from "uplot";
import { make, text } from "./dom.js";
import { clock } from "./format.js";

/** One line of a chart. color is a custom property of the style sheet. */
export interface Line {
  label: string;
  color: string;
  fill?: "soft" | "solid";
  dash?: boolean;
}

export interface ChartOptions {
  id: string;
  lines: Line[];
  value: (v: number) => string;
  binary?: boolean;
  /** The scale reaches at least so far. */
  least: number;
  /** What is said of a point under the cursor; default: each line's value. */
  say?: (values: (number | null)[]) => string;
}

const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// axisWidth is that of the axis of values, pixels.
const axisWidth = 62;

const binarySteps = Array.from({ length: 44 }, (_, i) => 2 ** i);

/** A chart over time. It is drawn anew when colours or lines change. */
export class Chart {
  private readonly figure: HTMLElement;
  private readonly box: HTMLElement;
  private readonly readout: HTMLElement;
  private readonly alt: HTMLElement;
  private plot: uPlot | null = null;
  private data: uPlot.AlignedData = [[]];
  private seconds = 300;
  private lines: Line[];

  constructor(private readonly o: ChartOptions) {
    this.figure = document.getElementById(o.id)!;
    this.lines = o.lines;
    this.box = make("div", "plot");
    this.box.setAttribute("aria-hidden", "true"); // the caption says it
    this.readout = make("p", "readout");
    this.readout.setAttribute("aria-hidden", "true");
    this.alt = make("figcaption", "unseen");
    this.figure.append(this.box, this.readout, this.alt);
    new ResizeObserver(() => this.resize()).observe(this.box);
  }

  /** Shows columns, times first, over the last seconds. */
  show(columns: (number | null)[][], seconds: number, caption: string): void {
    this.data = columns as uPlot.AlignedData;
    this.seconds = seconds;
    text(this.alt, caption);
    if (!this.plot) this.draw();
    else this.plot.setData(this.data);
  }

  /** Changes the lines, where they are others than before. */
  setLines(lines: Line[]): void {
    if (lines.length === this.lines.length && lines.every((l, i) => l.label === this.lines[i]!.label)) return;
    this.lines = lines;
    this.recolor();
  }

  recolor(): void {
    this.plot?.destroy();
    this.plot = null;
  }

  private resize(): void {
    const { width, height } = this.size();
    if (width > 0 && this.plot && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  private size(): { width: number; height: number } {
    return { width: this.box.clientWidth, height: this.box.clientHeight };
  }

  private draw(): void {
    const { width, height } = this.size();
    if (width === 0) return;
    const [line, dim] = [css("--line"), css("--dim")];
    const font = `11px ${css("--font")}`;
    const axis: uPlot.Axis = { stroke: dim, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const { o } = this;
    this.plot = new uPlot(
      {
        width,
        height,
        padding: [8, 2, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, sync: { key: "time" } },
        scales: {
          x: { time: true, range: () => this.range() },
          y: { range: (_u, _min, max) => [0, Math.max((max ?? 0) * 1.08, o.least)] },
        },
        axes: [
          { ...axis, grid: { show: false }, size: 22, gap: 3, space: 70, values: (u, splits) => this.times(u, splits) },
          {
            ...axis, size: axisWidth, gap: 6, space: height < 120 ? 22 : 34,
            values: (_u, splits) => splits.map((v) => o.value(v).replace(/\.0+(?!\d)/, "")), // 2.00 k is 2 k
            ...(o.binary ? { incrs: binarySteps } : {}),
          },
        ],
        series: [
          {},
          ...this.lines.map((l): uPlot.Series => {
            const color = css(l.color);
            return {
              label: l.label, stroke: color, width: l.fill === "solid" ? 0 : 1.5, points: { show: false },
              ...(l.dash ? { dash: [4, 4] } : {}),
              ...(l.fill === "solid" ? { fill: color } : l.fill === "soft" ? { fill: `color-mix(in srgb, ${color} 14%, transparent)` } : {}),
            };
          }),
        ],
        hooks: { setCursor: [(u) => this.point(u.cursor.idx ?? null)] },
      },
      this.data,
      this.box,
    );
  }

  // times labels the axis, but where a label would run into the other axis or out of
  // the chart.
  private times(u: uPlot, splits: number[]): string[] {
    const seconds = splits.length > 1 && (splits[1]! - splits[0]!) % 60 !== 0;
    const { min, max } = u.scales.x!;
    const room = ((seconds ? 30 : 20) / Math.max(1, u.width - axisWidth)) * (max! - min!);
    return splits.map((t) => (t < min! + room || t > max! - room ? "" : clock(t * 1000, seconds)));
  }

  // range is the time shown, less while less is known.
  private range(): [number, number] {
    const times = this.data[0] as number[];
    const end = times.at(-1) ?? Date.now() / 1000;
    return [Math.max(end - this.seconds, Math.min(times[0] ?? end, end - 60)), end];
  }

  private point(i: number | null): void {
    const at = i === null ? undefined : this.data[0]?.[i];
    if (i === null || at === undefined) {
      text(this.readout, "");
      return;
    }
    const values = this.lines.map((_, k) => (this.data[k + 1]?.[i] as number | null | undefined) ?? null);
    const said = this.o.say
      ? this.o.say(values)
      : this.lines.map((l, k) => (values[k] === null ? "" : `${l.label} ${this.o.value(values[k]!)}`)).filter(Boolean).join(" · ");
    text(this.readout, said ? `${clock(at * 1000)}  ${said}` : "");
  }
}

/** What a series did, for who can't see it. */
export function summary(what: string, column: (number | null)[], value: (v: number) => string): string {
  const known = column.filter((v): v is number => v !== null);
  if (known.length === 0) return `${what}: nothing known yet.`;
  return `${what}: now ${value(known.at(-1)!)}, between ${value(Math.min(...known))} and ${value(Math.max(...known))} in the time shown.`;
}
