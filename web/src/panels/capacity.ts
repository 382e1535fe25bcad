import { byId, make, rows, text } from "../dom.js";
import { bytes, count } from "../format.js";
import type { Capacity, Stats } from "../stats.js";

// The formula's terms that have a colour of their own in the panel of memory have it
// here too.
const colors: Record<string, string> = {
  runtime: "--m-go", "embedded broker": "--m-broker", "channel logs": "--m-logs", "pooled buffers": "--m-buffers",
  "more subscriptions": "--m-subs", handshakes: "--m-shakes", backlog: "--m-backlog", connections: "--m-sockets",
};

// divide shows the limit as the formula divides it, when every place is taken.
function divide(c: Capacity, max: number): void {
  const parts = [
    ...c.terms.filter((t) => t.per === "process" && t.bytes > 0).map((t) => ({ name: t.name, bytes: t.bytes })),
    { name: "connections", bytes: max * c.bytes_per_connection },
  ];
  parts.push({ name: "to spare", bytes: Math.max(0, c.limit.bytes - parts.reduce((n, p) => n + p.bytes, 0)) });
  const [stack, legend] = [byId("cap-stack"), byId("cap-legend")];
  while (stack.children.length > parts.length) stack.lastChild!.remove();
  while (legend.children.length > parts.length) legend.lastChild!.remove();
  parts.forEach((p, i) => {
    const color = `var(${colors[p.name] ?? (p.name === "to spare" ? "--track" : "--dim")})`;
    const bar = (stack.children[i] as HTMLElement | undefined) ?? stack.appendChild(make("i"));
    bar.style.width = `${(100 * p.bytes) / c.limit.bytes}%`;
    bar.style.background = color;
    let line = legend.children[i] as HTMLElement | undefined;
    if (!line) {
      line = make("li");
      line.append(make("i", "key"), make("span"));
      legend.append(line);
    }
    (line.children[0] as HTMLElement).style.background = color;
    text(line.children[1] as HTMLElement, `${p.name} ${bytes(p.bytes)}`);
  });
}

export function capacity(s: Stats): void {
  const c = s.capacity;
  if (!c) {
    text("cap-formula", "This gateway's capacity was not worked out from a formula.");
    text("cap-bound", `${count(s.maxConnections)} at most`);
    return;
  }
  text("cap-bound", `bound by ${c.bound}`);
  text("cap-formula", `(${bytes(c.limit.bytes)} − ${bytes(c.overhead)}) ∕ ${bytes(c.bytes_per_connection)} = ${count(c.by_memory)}`);
  const others = [
    c.by_descriptors > 0 ? `file descriptors allow ${count(c.by_descriptors)}` : "",
    c.configured > 0 ? `configured are ${count(c.configured)}` : "",
  ].filter(Boolean);
  text("cap-why", `(limit − overhead) ∕ bytes of a connection: memory allows ${count(c.by_memory)}${others.map((o) => `, ${o}`).join("")}. Enforced: ${count(s.maxConnections)}. Limit from ${c.limit.source}, profile ${c.profile}.`);
  divide(c, s.maxConnections);
  text("cap-spare", c.by_memory - s.maxConnections > 1000 ? "Logs, buffers and subscriptions may each take an eighth of what is to spare." : "");
  if (!byId("cap-table").closest("details")!.open && byId<HTMLTableElement>("cap-table").tBodies[0]!.rows.length > 0) return;
  const group = (per: string, all: string, total: number) => [
    [{ text: all, class: "total" }, { text: count(total), class: "total" }, { text: bytes(total), class: "total" }],
    ...c.terms.filter((t) => t.per === per).map((t) => [{ text: t.name, class: "sub" }, count(t.bytes), t.what]),
  ];
  rows("cap-table", [...group("connection", "one connection", c.bytes_per_connection), ...group("process", "overhead", c.overhead)], "");
}
