import { Chart, summary } from "../chart.js";
import { byId, make, meter, rows, text } from "../dom.js";
import { bytes, percent } from "../format.js";
import type { History, Sample } from "../history.js";
import { limitAt, memoryAt, memoryTerms } from "../series.js";

// What is held against the limit, in words.
const accounts: Record<string, string> = {
  cgroup: "working set of the container (cgroup)",
  "cgroup v1": "working set of the container (cgroup v1, without sockets)",
  process: "this process, without the kernel's sockets; limit set by hand",
  host: "no container limit: the whole machine",
  go: "not watched: Go's own memory",
};

const swatches = new Map(memoryTerms);

export function memory(history: History) {
  // Stacked: each line is the sum up to its term, and the highest is painted first.
  const order = [...memoryTerms.keys()].reverse();
  const chart = new Chart({
    id: "mem-chart", value: bytes, binary: true, least: 2 ** 20,
    lines: [
      ...order.map((i) => ({ label: memoryTerms[i]![0], color: memoryTerms[i]![1], fill: "solid" as const })),
      { label: "limit", color: "--bad", dash: true },
    ],
    say: (values) => (values[0] == null ? "" : `${bytes(values[0])} in all`),
  });
  return {
    draw({ s }: Sample, seconds: number): void {
      const total = s.memory.terms.reduce((n, t) => n + t.bytes, 0);
      const used = s.memoryUsedBytes ?? total;
      const limit = s.memoryLimitBytes ?? 0;
      text("mem-used", bytes(used));
      text("mem-limit", limit ? `of ${bytes(limit)}` : "no limit known");
      text("mem-part", percent(used, limit));
      const account = s.memory.source?.startsWith("cgroup v1") ? "cgroup v1" : s.memory.account;
      text("mem-account", accounts[account] ?? account);
      byId("mem-account").title = s.memory.source ?? "";
      meter("mem-meter", used, limit, 0.88, 0.96);
      const place = new Map(memoryTerms.map(([name], i) => [name, i]));
      const terms = [...s.memory.terms].sort((a, b) => (place.get(b.name) ?? -1) - (place.get(a.name) ?? -1));
      rows("mem-terms", terms.map((t) => [
        { text: t.name, title: t.what, class: "term" }, bytes(t.bytes), t.budget ? bytes(t.budget) : "",
      ]), "nothing known");
      paint(terms.map((t) => swatches.get(t.name) ?? "--dim"));

      const [times, ...held] = history.columns(seconds, [...memoryTerms.keys()].map((i) => memoryAt + i));
      const sums: (number | null)[][] = [];
      held.forEach((column, i) => {
        const below = sums[i - 1];
        sums.push(column.map((v, j) => (v === null ? null : v + (below?.[j] ?? 0))));
      });
      const all = sums.at(-1)!;
      const limits = history.columns(seconds, [limitAt])[1]!;
      // As with connections: the limit is drawn where it is near.
      const near = Math.max(0, ...all.map((v) => v ?? 0)) > limit / 3;
      chart.show(
        [times!, ...order.map((i) => sums[i]!), limits.map((v) => (near && v ? v : null))],
        seconds, summary("Memory", all, bytes),
      );
    },
    recolor: () => chart.recolor(),
  };
}

// paint puts each term's colour before its name.
function paint(colors: string[]): void {
  const body = byId<HTMLTableElement>("mem-terms").tBodies[0]!;
  colors.forEach((color, i) => {
    const cell = body.rows[i]?.cells[0];
    if (!cell) return;
    if (!cell.querySelector("i")) cell.prepend(make("i", "key"));
    cell.querySelector("i")!.style.background = `var(${color})`;
  });
}
