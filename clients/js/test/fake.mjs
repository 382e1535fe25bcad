// A gateway whose every frame the test decides, and a user who writes down what
// they are told.
import assert from "node:assert/strict";
import http from "node:http";
import WebSocket, { WebSocketServer } from "ws";
import { dial } from "../dist/index.js";

export const patience = 20_000;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// within fails what takes too long.
export function within(promise, what, ms = patience) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export async function waitFor(what, ok) {
  for (const deadline = Date.now() + patience; !(await ok()); await sleep(2)) {
    if (Date.now() > deadline) throw new Error(`not so: ${what}`);
  }
}

// A queue whose reader waits.
export class Queue {
  #items = [];
  #readers = [];

  put(item) {
    const reader = this.#readers.shift();
    if (reader) reader(item);
    else this.#items.push(item);
  }

  get(what, ms = patience) {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    return within(new Promise((resolve) => this.#readers.push(resolve)), what, ms);
  }

  get empty() {
    return this.#items.length === 0;
  }
}

export const hello = (more = {}) => ({
  t: "hello", conn: "c", node: "n", v: 1, ping_ms: 20000, replay: 100, max_ch: 1024, rate: { burst: 1000, per_sec: 1000 }, ...more,
});

export class Fake {
  conns = new Queue();
  headers = [];
  refuse = null; // (res) => true if it has answered

  static async start(t) {
    const s = new Fake();
    s.http = http.createServer();
    s.wss = new WebSocketServer({ noServer: true, handleProtocols: () => "odin.v1.json" });
    s.http.on("upgrade", (req, socket, head) => {
      s.headers.push(req.headers);
      socket.on("error", () => {}); // a client that is refused may reset
      const refusal = s.refuse?.();
      if (refusal) {
        const { status, headers = {}, body = "" } = refusal;
        const lines = Object.entries(headers).map(([k, v]) => `${k}: ${v}\r\n`).join("");
        socket.end(`HTTP/1.1 ${status} No\r\n${lines}Content-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
        return;
      }
      s.wss.handleUpgrade(req, socket, head, (ws) => s.conns.put(new FakeConn(ws)));
    });
    await new Promise((resolve) => s.http.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      for (const ws of s.wss.clients) ws.terminate();
      s.http.close();
      s.http.closeAllConnections();
    });
    return s;
  }

  get url() {
    return `ws://127.0.0.1:${this.http.address().port}/ws`;
  }

  async accept(more) {
    const c = await this.conns.get("a connection");
    c.send(hello(more));
    return c;
  }
}

class FakeConn {
  #in = new Queue();
  over = new Promise((resolve) => (this.ended = resolve));

  constructor(ws) {
    this.ws = ws;
    ws.on("message", (b) => this.#in.put({ ...JSON.parse(b), size: b.length }));
    ws.on("close", (code) => this.ended(code));
    ws.on("error", () => {});
  }

  send(frame) {
    this.ws.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  msg(ch, seq, prev, more = {}) {
    this.send({ t: "msg", ch, seq, prev, ts: 1767000000123, ...more, d: { n: seq } });
  }

  gap(ch, after, before, why) {
    this.send({ t: "gap", ch, after, before, why });
  }

  async expect(op) {
    const o = await this.#in.get(op);
    assert.equal(o.op, op, JSON.stringify(o));
    return o;
  }

  // ackAt answers a sub: every name stands at this position.
  ackAt(o, epoch, seq) {
    this.send({ t: "ack", id: o.id, ch: Object.fromEntries(o.ch.map((n) => [n, { epoch, seq }])) });
  }

  ack(o) {
    this.send({ t: "ack", id: o.id });
  }

  err(o, code, more = {}) {
    this.send({ t: "err", ...(o && { id: o.id }), code, ...more });
  }
}

// What a browser has: events and no more. Nothing of ws shines through.
export class BrowserLike {
  #ws;
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;

  constructor(url, protocols) {
    assert.equal(arguments.length, 2);
    this.#ws = new WebSocket(url, protocols);
    for (const type of ["open", "message", "close", "error"]) {
      this.#ws.addEventListener(type, (e) => this[`on${type}`]?.(e));
    }
  }

  set binaryType(v) {
    this.#ws.binaryType = v;
  }

  send(text) {
    this.#ws.send(text);
  }

  close(code, reason) {
    assert.ok(code === undefined || code === 1000 || (code >= 3000 && code < 5000));
    this.#ws.close(code, reason);
  }
}

// Recorder writes down what a client tells its user.
export class Recorder {
  #told = new Queue();

  say(text) {
    this.#told.put(text);
  }

  options(more = {}) {
    return {
      WebSocket,
      onGap: (g) => this.say(`gap ${g.channel} ${g.after} ${g.before} ${g.why}`),
      onError: (e) => this.say([e.fatal ? "fatal" : "error", e.code, ...(e.status ? [e.status] : [])].join(" ")),
      minBackoff: 1,
      maxBackoff: 20,
      ...more,
      clock: { handshake: 2000, retry: 5, stable: 3_600_000, patience: 50, ...more.clock },
    };
  }

  follow(...channels) {
    return {
      channels,
      onMessage: (m) => this.say(`${m.channel} ${m.seq}${m.skip ? ` skip ${m.skip}` : ""}`),
      onStale: (ch, stale) => this.say(`stale ${ch} ${stale}`),
    };
  }

  // want waits for exactly these, in order.
  async want(...all) {
    for (const w of all) assert.equal(await this.#told.get(`the user hears "${w}"`), w);
  }

  async nothing() {
    await sleep(30);
    if (!this.#told.empty) assert.fail(`the user was told ${await this.#told.get()}`);
  }
}

// connected is a client that has been greeted, and its connection.
export async function connected(t, s, options, more) {
  const [c, conn] = await within(Promise.all([dial(s.url, options), s.accept(more)]), "connection");
  t.after(async () => {
    c.close();
    await within(c.done, "the client's end");
  });
  return [c, conn];
}

// subscribed makes a subscription while answer plays the server.
export async function subscribed(c, options, answer) {
  const [sub] = await within(Promise.all([c.subscribe(options), answer()]), "subscription");
  return sub;
}

// following is a client that follows names from an ack at e7:100.
export async function following(t, ...names) {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  await subscribed(c, r.follow(...names), async () => conn.ackAt(await conn.expect("sub"), "e7", 100));
  return { s, c, conn, r };
}
