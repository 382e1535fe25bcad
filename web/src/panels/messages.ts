import { Chart, summary } from "../chart.js";
import { text } from "../dom.js";
import { bytes, rate, short } from "../format.js";
import type { History, Sample } from "../history.js";
import { perSecond } from "../history.js";
import { inAt, outAt } from "../series.js";

export function messages(history: History) {
  const chart = (id: string, label: string, color: string) =>
    new Chart({ id, value: rate, least: 10, lines: [{ label, color, fill: "soft" }] });
  const into = chart("in-chart", "in", "--in");
  const out = chart("out-chart", "out", "--out");
  return {
    draw(now: Sample, seconds: number): void {
      const [times, ins, outs] = history.columns(seconds, [inAt, outAt]);
      const [i, o] = [ins!.at(-1) ?? null, outs!.at(-1) ?? null];
      const before = history.before;
      const b = perSecond(now, before, (s) => s.bytesOut);
      text("msg-in", i === null ? "–" : rate(i));
      text("msg-out", o === null ? "–" : rate(o));
      text("msg-bytes", b === null ? "–" : `${bytes(b)}/s`);
      text("msg-fan", i !== null && o !== null && i >= 1 ? short(o / i) : "–");
      text("msg-sum", `${short(now.s.messagesIn)} in, ${short(now.s.messagesOut)} out since start`);
      into.show([times!, ins!], seconds, summary("Messages in", ins!, rate));
      out.show([times!, outs!], seconds, summary("Messages out", outs!, rate));
    },
    recolor(): void {
      into.recolor();
      out.recolor();
    },
  };
}
