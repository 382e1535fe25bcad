// The real binary, started as a user would.
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

export const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "odin-page-"));
after(() => fs.rmSync(scratch, { recursive: true, force: true }));

// The binary ODIN_BIN names, or one built from the repository around this directory.
export const bin = (() => {
  if (process.env.ODIN_BIN) return path.resolve(process.env.ODIN_BIN);
  const out = path.join(scratch, "odin");
  execFileSync("go", ["build", "-o", out, "./cmd/odin"], { cwd: new URL("../..", import.meta.url), env: { ...process.env, CGO_ENABLED: "0" } });
  return out;
})();

// Settings of whoever runs the tests are not the tests'.
const env = Object.fromEntries(Object.entries(process.env).filter(([k]) => !k.startsWith("ODIN_")));

// freePort finds one below the range the kernel hands out to outgoing connections.
async function freePort() {
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
    return Server.run(t, await freePort(), await freePort(), ["--data-dir", data, "--drain", "1s", ...args], []);
  }

  // leave is what is to be done before the server is ended behind a test's back.
  static async run(t, port, admin, args, leave) {
    const s = new Server();
    Object.assign(s, { t, port, admin, args, leave, log: "" });
    s.child = spawn(bin, ["serve", "--addr", `127.0.0.1:${port}`, "--admin-addr", `127.0.0.1:${admin}`, ...args], { env });
    for (const out of [s.child.stdout, s.child.stderr]) out.on("data", (b) => (s.log = (s.log + b).slice(-100_000)));
    s.exit = new Promise((resolve) => s.child.once("exit", resolve));
    t.after(async () => {
      for (const f of leave.splice(0)) await f();
      await s.end("SIGKILL");
    });
    for (let i = 0; ; i++) {
      if (await fetch(`http://127.0.0.1:${port}/readyz`).then((r) => r.ok, () => false)) return s;
      if (i > 3000 || s.child.exitCode !== null) throw new Error(`odin is not ready:\n${s.log}`);
      await sleep(10);
    }
  }

  get page() {
    return `http://127.0.0.1:${this.admin}/`;
  }

  stats() {
    return fetch(`http://127.0.0.1:${this.port}/stats`).then((r) => r.json());
  }

  // load holds connections with odin stress until the test ends, and waits until so
  // many were attempted.
  async load(connections, ...args) {
    const child = spawn(bin, ["stress", "--url", `ws://127.0.0.1:${this.port}/ws`, "--connections", String(connections), "--duration", "300s", "--json", ...args], { env });
    const gone = new Promise((resolve) => child.once("exit", resolve));
    this.t.after(async () => {
      child.kill("SIGKILL");
      await gone;
    });
    for (;;) {
      const s = await this.stats();
      if (s.admitted + Object.values(s.rejected).reduce((a, b) => a + b, 0) >= connections) return;
      await sleep(20);
    }
  }

  async publish(count, ...channels) {
    const lines = [];
    for (let i = 0; i < count; i++) for (const ch of channels) lines.push(`{"ch":"${ch}","data":{"n":${i}}}`);
    const res = await fetch(`http://127.0.0.1:${this.admin}/v1/publish/batch`, {
      method: "POST", headers: { "Content-Type": "application/x-ndjson" }, body: lines.join("\n"),
    });
    if (!res.ok) throw new Error(`publish: ${res.status} ${await res.text()}`);
    await res.text();
  }

  async end(signal) {
    this.child.kill("SIGCONT");
    this.child.kill(signal);
    await this.exit;
  }

  restart() {
    return Server.run(this.t, this.port, this.admin, this.args, this.leave);
  }
}
