import { perSecond, type Sample } from "./history.js";

// The series that are kept for charts, by place.
export const connectionsAt = 0;
export const capacityAt = 1;
export const inAt = 2;
export const outAt = 3;
export const limitAt = 4;
export const memoryAt = 5; // and from here on one for each of memoryTerms

/** The holders of memory in the order they are stacked, the lowest first, with their
 * colours. Those the gateway names and that are not here come last. */
export const memoryTerms: [name: string, color: string][] = [
  ["rest", "--m-rest"],
  ["Go heap and stacks", "--m-go"],
  ["channel logs", "--m-logs"],
  ["history cache", "--m-history"],
  ["pooled buffers", "--m-buffers"],
  ["backlog", "--m-backlog"],
  ["kernel: sockets", "--m-sockets"],
];

export function series(now: Sample, before: Sample | undefined): (number | null)[] {
  const { s } = now;
  const held = new Map(s.memory.terms.map((t) => [t.name, t.bytes]));
  return [
    s.currentConnections,
    s.maxConnections,
    perSecond(now, before, (x) => x.messagesIn),
    perSecond(now, before, (x) => x.messagesOut),
    s.memoryLimitBytes ?? 0,
    ...memoryTerms.map(([name]) => held.get(name) ?? 0),
  ];
}
