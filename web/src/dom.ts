// The page's few ways to change itself. Text is set as text: what a client sent, such
// as a channel's name, is never markup.

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** Sets a text where it differs, so that a selection lasts. */
export function text(id: string | HTMLElement, value: string): void {
  const e = typeof id === "string" ? byId(id) : id;
  if (e.textContent !== value) e.textContent = value;
}

export function make<K extends keyof HTMLElementTagNameMap>(tag: K, className = "", value = ""): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (value) e.textContent = value;
  return e;
}

/** A cell: its text, or its text with a class, or with a part of a bar, 0 to 1. */
export type Cell = string | { text: string; class?: string; title?: string; bar?: number };

/** Makes a table's body say rows; what is there is used again. The first cell of each
 * is its header. With none it says so. */
export function rows(id: string, wanted: Cell[][], none: string): void {
  const table = byId<HTMLTableElement>(id);
  const body = table.tBodies[0]!;
  const heads = table.tHead!.rows[0]!.cells;
  if (wanted.length === 0) {
    if (body.dataset.none === none) return;
    body.dataset.none = none;
    const tr = make("tr");
    const td = make("td", "none", none);
    td.colSpan = heads.length;
    tr.append(td);
    body.replaceChildren(tr);
    return;
  }
  if (body.dataset.none) {
    delete body.dataset.none;
    body.replaceChildren();
  }
  while (body.rows.length > wanted.length) body.deleteRow(-1);
  wanted.forEach((cells, i) => {
    const tr = body.rows[i] ?? body.appendChild(make("tr"));
    cells.forEach((cell, j) => {
      let td = tr.cells[j] as HTMLTableCellElement | undefined;
      if (!td) {
        td = make(j === 0 ? "th" : "td");
        if (j === 0) td.scope = "row";
        tr.append(td);
      }
      const c = typeof cell === "string" ? { text: cell } : cell;
      const className = `${heads[j]?.className ?? ""} ${c.class ?? ""}`.trim();
      if (td.className !== className) td.className = className;
      if ((c.title ?? "") !== td.title) td.title = c.title ?? "";
      if (c.bar === undefined && !td.querySelector("i.key")) text(td, c.text);
      else if (c.bar === undefined) {
        if (td.lastChild!.textContent !== c.text) td.lastChild!.textContent = c.text;
      }
      else {
        const i = td.firstElementChild as HTMLElement | null ?? td.appendChild(make("i", "bar"));
        i.style.width = `${Math.max(0, Math.min(1, c.bar)) * 100}%`;
      }
    });
  });
}

/** Sets a meter to a part of a whole; from warn and bad on it says so. */
export function meter(id: string, part: number, whole: number, warn: number, bad: number): void {
  const e = byId(id);
  const p = whole > 0 ? Math.min(1, part / whole) : 0;
  (e.firstElementChild as HTMLElement).style.width = `${p * 100}%`;
  e.setAttribute("aria-valuenow", (p * 100).toFixed(1));
  e.classList.toggle("warn", p >= warn && p < bad);
  e.classList.toggle("bad", p >= bad);
}
