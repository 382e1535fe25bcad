// Figures as people read them: three digits that count, the unit behind a narrow
// space that does not break.
const gap = "\u202f";

/** 54613 as 54 613. */
export function count(n: number): string {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, gap);
}

function three(n: number): string {
  return n >= 99.95 ? n.toFixed(0) : n >= 9.995 ? n.toFixed(1) : n.toFixed(2);
}

// scaled divides until a unit fits.
function scaled(n: number, step: number, units: string[]): string {
  let i = 0;
  while (i < units.length - 1 && n >= step * 0.9995) {
    n /= step;
    i++;
  }
  const unit = units[i]!;
  const digits = i === 0 ? (Number.isInteger(n) || n >= 99.95 ? n.toFixed(0) : n.toFixed(1)) : three(n);
  return unit ? digits + gap + unit : digits;
}

/** A count where its size matters more than its last digit: 1.25 k. */
export const short = (n: number): string => scaled(n, 1000, ["", "k", "M", "G", "T"]);

/** Things a second: 1.25 k/s. */
export function rate(n: number): string {
  const s = short(n);
  return /[a-zA-Z]$/.test(s) ? `${s}/s` : `${s}${gap}/s`;
}

/** Bytes: 12.5 MiB. */
export const bytes = (n: number): string => scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);

/** A part of a whole: 91.6 %. What is not all of it is never 100 %. */
export function percent(part: number, whole: number): string {
  if (!(whole > 0)) return "–";
  const p = (100 * part) / whole;
  const digits = p === 0 || p >= 100 ? p.toFixed(0) : Math.min(p, 99.9).toFixed(1);
  return digits + gap + "%";
}

/** Milliseconds as µs, ms or s. */
export function ms(n: number): string {
  if (n === 0) return `0${gap}ms`;
  if (n < 1) return three(n * 1000) + gap + "µs";
  if (n < 1000) return three(n) + gap + "ms";
  return three(n / 1000) + gap + "s";
}

/** How long something has lasted: 3 d 4 h. */
export function span(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  const two = (a: number, x: string, b: number, y: string) => `${a}${gap}${x} ${b}${gap}${y}`;
  if (s < 60) return `${s}${gap}s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

/** The time of day: 14:03:59, or 14:03. */
export function clock(unixMs: number, seconds = true): string {
  const d = new Date(unixMs);
  const p = (n: number) => String(n).padStart(2, "0");
  return `${p(d.getHours())}:${p(d.getMinutes())}` + (seconds ? `:${p(d.getSeconds())}` : "");
}
