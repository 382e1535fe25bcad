// The real binary, and a user who compares what they are given with what was
// published.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after } from "node:test";
import WebSocket from "ws";
import { dial } from "../dist/index.js";
import { sleep, waitFor, within } from "./fake.mjs";

export const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "odin-client-"));
after(() => fs.rmSync(scratch, { recursive: true, force: true }));

// The binary ODIN_BIN names, or one built from the repository around this package.
const bin = (() => {
  if (process.env.ODIN_BIN) return path.resolve(process.env.ODIN_BIN);
  const out = path.join(scratch, "odin");
  const env = { ...process.env, CGO_ENABLED: "0" };
  execFileSync("go", ["build", "-o", out, "./cmd/odin"], { cwd: new URL("../../..", import.meta.url), env });
  return out;
})();

// freePort finds one below the range the kernel hands out to outgoing connections.
export async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const ok = await new Promise((resolve) => {
      const s = net.createServer();
      s.once("error", () => resolve(false));
      s.listen(port, "127.0.0.1", () => s.close(() => resolve(true)));
    });
    if (ok) return port;
  }
}

export class Server {
  static async start(t, ...args) {
    const data = fs.mkdtempSync(path.join(scratch, "data-"));
    return Server.run(t, await freePort(), await freePort(), ["--data-dir", data, "--drain", "1s", ...args]);
  }

  static async run(t, port, admin, args) {
    const s = new Server();
    Object.assign(s, { t, port, admin, args, log: "" });
    const env = Object.fromEntries(Object.entries(process.env).filter(([k]) => !k.startsWith("ODIN_")));
    s.child = spawn(bin, ["serve", "--addr", `127.0.0.1:${port}`, "--admin-addr", `127.0.0.1:${admin}`, ...args], { env });
    for (const out of [s.child.stdout, s.child.stderr]) out.on("data", (b) => (s.log = (s.log + b).slice(-10_000)));
    s.exit = new Promise((resolve) => s.child.once("exit", resolve));
    t.after(() => s.kill());
    for (let i = 0; ; i++) {
      if (await fetch(`http://127.0.0.1:${port}/readyz`).then((r) => r.ok, () => false)) return s;
      if (i > 1000) throw new Error(`odin is not ready:\n${s.log}`);
      await sleep(10);
    }
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  async kill(signal = "SIGKILL") {
    this.child.kill(signal);
    await this.exit;
  }

  restart() {
    return Server.run(this.t, this.port, this.admin, this.args);
  }
}

// Ledger is what was published and acknowledged.
export class Ledger {
  entries = []; // [channel, seq, data]
  last = new Map();

  async publish(server, count, ...channels) {
    const items = [];
    for (let i = 0; i < count; i++) {
      for (const ch of channels) items.push({ ch, data: `{"n":${this.entries.length + items.length}, "x":1.50}` });
    }
    const res = await fetch(`http://127.0.0.1:${server.admin}/v1/publish/batch`, {
      method: "POST",
      headers: { "Content-Type": "application/x-ndjson" },
      body: items.map((i) => `{"ch":"${i.ch}","data":${i.data}}\n`).join(""),
    });
    const acks = (await res.text()).trim().split("\n").map((line) => JSON.parse(line));
    assert.equal(acks.length, items.length);
    for (const [i, { ch, data }] of items.entries()) {
      assert.ok(acks[i].seq > 0, JSON.stringify(acks[i]));
      this.entries.push([ch, acks[i].seq, data]);
      this.last.set(ch, acks[i].seq);
    }
  }
}

// Checker is a user who compares what they are given, and told, with a ledger.
export class Checker {
  got = new Map();
  last = new Map();
  gaps = [];
  faults = [];
  errors = [];
  states = [];

  options = (...fallback) => ({
    WebSocket,
    fallback,
    minBackoff: 20,
    maxBackoff: 300,
    onGap: (g) => void this.gaps.push(g),
    onError: (e) => void this.errors.push(e.message),
    onState: (s) => void this.states.push(s),
  });

  onMessage = (m) => {
    const last = this.last.get(m.channel) ?? 0;
    if (m.seq <= last) this.faults.push(`${m.channel} ${m.seq} after ${last}`);
    this.last.set(m.channel, m.seq);
    this.got.set(`${m.channel} ${m.seq}`, m.raw);
  };

  covers(g, ch, seq) {
    return g.after < seq && seq < g.before && (g.channel === ch || (g.channel.endsWith(".*") && ch.startsWith(g.channel.slice(0, -1))));
  }

  // whole waits until a ledger has been accounted for to its end, and returns
  // how many messages only a gap speaks of.
  async whole(l) {
    await waitFor("the last messages", () => [...l.last].every(([ch, seq]) => (this.last.get(ch) ?? 0) >= seq)).catch(() => {});
    const faults = [...this.faults];
    let announced = 0;
    for (const [ch, seq, data] of l.entries) {
      const had = this.got.get(`${ch} ${seq}`);
      const told = this.gaps.filter((g) => this.covers(g, ch, seq));
      if (had === undefined && told.length > 0) announced++;
      else if (had === undefined) faults.push(`${ch} ${seq} is missing`);
      else if (had !== data) faults.push(`${ch} ${seq} is ${had}, want ${data}`);
      else if (told.some((g) => g.channel === ch)) faults.push(`${ch} ${seq} was given, and announced as missing`);
    }
    assert.deepEqual(faults.slice(0, 5), [], JSON.stringify([this.gaps, this.errors]));
    return announced;
  }
}

export async function dialReal(t, url, options) {
  const c = await dial(url, { signal: AbortSignal.timeout(10_000), ...options });
  t.after(async () => {
    c.close();
    await within(c.done, "the client's end");
  });
  return c;
}
