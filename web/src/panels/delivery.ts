import { byId, make, rows, text } from "../dom.js";
import { count, ms } from "../format.js";
import type { History } from "../history.js";
import type { Histogram, Stats } from "../stats.js";

type Bucket = Histogram["buckets"][number];

const upTo = (b: Bucket, before: Bucket | undefined) =>
  b.le === null ? (before?.le == null ? "any" : `over ${ms(before.le * 1000)}`) : ms(b.le * 1000);

// lately is what came into each bucket since an earlier reading of the same.
function lately(now: Histogram, then: Histogram | undefined): number[] {
  return now.buckets.map((b, i) => {
    const was = then?.buckets[i];
    return was && was.le === b.le ? Math.max(0, b.n - was.n) : b.n;
  });
}

// quantile is the bound of the bucket in which a part of all lies: no finer is known.
function quantile(h: Histogram, n: number[], q: number): string {
  const total = n.reduce((a, b) => a + b, 0);
  if (total === 0) return "–";
  let seen = 0;
  for (let i = 0; i < n.length; i++) {
    seen += n[i]!;
    if (seen >= q * total) {
      const b = h.buckets[i]!;
      return b.le === null ? upTo(b, h.buckets[i - 1]) : `≤ ${ms(b.le * 1000)}`;
    }
  }
  return "–";
}

export function delivery(history: History) {
  return (s: Stats): void => {
    const h = s.delivery;
    byId("lag-none").hidden = h !== undefined && h.count > 0;
    byId("lag-some").hidden = h === undefined || h.count === 0;
    if (h === undefined) {
      text("lag-none", "This gateway does not measure how long deliveries take.");
      return;
    }
    if (h.count === 0) {
      text("lag-none", "Nothing has been delivered yet.");
      return;
    }
    const then = history.minuteAgo?.s;
    const recent = lately(h, then?.delivery);
    const total = recent.reduce((a, b) => a + b, 0);
    const quiet = total === 0;
    const shown = quiet ? h.buckets.map((b) => b.n) : recent;
    text("lag-p50", quiet ? ms(h.p50Ms) : quantile(h, recent, 0.5));
    text("lag-p90", quiet ? ms(h.p90Ms) : quantile(h, recent, 0.9));
    text("lag-p99", quiet ? ms(h.p99Ms) : quantile(h, recent, 0.99));
    text("lag-max", ms(h.maxMs));
    const loops = s.loopLag && s.loopLag.count > 0 ? ` Event loops were late by ${ms(s.loopLag.p99Ms)} at p99.` : "";
    text("lag-what", (quiet
      ? `${history.known > 0 ? `Nothing in the ${history.latelySaid}; shown` : "Shown"} are the ${count(h.count)} deliveries since start.`
      : `${count(total)} deliveries of the ${history.latelySaid}. Since start: p50 ${ms(h.p50Ms)}, p90 ${ms(h.p90Ms)}, p99 ${ms(h.p99Ms)}.`) + loops);
    bars(h, shown);
    rows("lag-table", h.buckets.map((b, i) => [upTo(b, h.buckets[i - 1]), count(recent[i]!), count(b.n)]), "no buckets");
  };
}

// bars draws the buckets from the first that is not empty to the last, and one more
// at each side.
function bars(h: Histogram, n: number[]): void {
  let first = n.findIndex((v) => v > 0);
  let last = n.findLastIndex((v) => v > 0);
  first = Math.max(0, first - 1);
  last = Math.min(n.length - 1, last + 1);
  const most = Math.max(1, ...n);
  const total = n.reduce((a, b) => a + b, 0);
  const box = byId("lag-bars");
  const wanted = last - first + 1;
  while (box.children.length > wanted) box.lastChild!.remove();
  const every = Math.ceil(wanted / Math.max(1, Math.min(8, Math.floor(box.clientWidth / 62)))); // labels that fit
  const room = box.clientWidth >= 28 * wanted; // for "11%" on each
  const highest = n.indexOf(most);
  for (let i = first; i <= last; i++) {
    let column = box.children[i - first] as HTMLElement | undefined;
    if (!column) {
      column = make("div");
      column.append(make("b"), make("i"), make("span"));
      box.append(column);
    }
    const [share, bar, label] = column.children as unknown as HTMLElement[];
    const part = n[i]! / most;
    bar!.style.height = n[i]! > 0 ? `calc((100% - 34px) * ${Math.max(0.015, part).toFixed(4)})` : "0";
    text(share!, (room ? part > 0.2 : i === highest) ? `${((100 * n[i]!) / total).toFixed(0)}%` : "");
    const le = upTo(h.buckets[i]!, h.buckets[i - 1]).replace(/\.0+(?!\d)/, "");
    text(label!, h.buckets[i]!.le === null || ((i - first) % every === 0 && i < last) ? le : "");
    column.title = `${h.buckets[i]!.le === null ? "" : "up to "}${le}: ${count(n[i]!)}`;
  }
  box.setAttribute("aria-label", `Histogram: half of the deliveries took ${quantile(h, n, 0.5)}, 99 of 100 ${quantile(h, n, 0.99)}. The table below has every bucket.`);
}
