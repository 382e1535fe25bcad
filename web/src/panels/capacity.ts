import { byId, rows, text } from "../dom.js";
import { bytes, count } from "../format.js";
import type { Stats } from "../stats.js";

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
  if (!byId("cap-table").closest("details")!.open && byId<HTMLTableElement>("cap-table").tBodies[0]!.rows.length > 0) return;
  const group = (per: string, all: string, total: number) => [
    [{ text: all, class: "total" }, { text: count(total), class: "total" }, { text: bytes(total), class: "total" }],
    ...c.terms.filter((t) => t.per === per).map((t) => [{ text: t.name, class: "sub" }, count(t.bytes), t.what]),
  ];
  rows("cap-table", [...group("connection", "one connection", c.bytes_per_connection), ...group("process", "overhead", c.overhead)], "");
}
