import { Chart, summary } from "../chart.js";
import { meter, text } from "../dom.js";
import { count, percent, short } from "../format.js";
import type { History, Sample } from "../history.js";
import { capacityAt, connectionsAt } from "../series.js";

export const sum = (counts: Record<string, number>) => Object.values(counts).reduce((a, b) => a + b, 0);

export function connections(history: History) {
  const chart = new Chart({
    id: "conn-chart", value: short, least: 10,
    lines: [
      { label: "connections", color: "--accent", fill: "soft" },
      { label: "capacity", color: "--dim", dash: true },
    ],
    say: ([now, max]) => (now == null ? "" : `${count(now)} of ${count(max ?? 0)}`),
  });
  return {
    draw({ s }: Sample, seconds: number): void {
      text("conn-now", count(s.currentConnections));
      text("conn-max", `of ${count(s.maxConnections)}`);
      text("conn-full", percent(s.currentConnections, s.maxConnections));
      text("conn-admitted", short(s.admitted));
      text("conn-refused", short(sum(s.rejected) + s.acceptRefused));
      const more = [s.handshakes > 0 ? `${count(s.handshakes)} shaking hands` : "", s.waiting > 0 ? `${count(s.waiting)} waiting` : ""];
      text("conn-bound", more.filter(Boolean).join(" · "));
      meter("conn-meter", s.currentConnections, s.maxConnections, 0.85, 0.995);
      const columns = history.columns(seconds, [connectionsAt, capacityAt]);
      // Far below the capacity its line would press the other one flat.
      const most = Math.max(0, ...columns[1]!.map((v) => v ?? 0));
      if (most < s.maxConnections / 4) columns[2] = columns[2]!.map(() => null);
      chart.show(columns, seconds, summary("Connections", columns[1]!, count));
    },
    recolor: () => chart.recolor(),
  };
}
