// The client in a page in headless Chromium, against the real binary, killed and
// restarted in between.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";
import { Queue } from "./fake.mjs";
import { Checker, Ledger, scratch, Server } from "./server.mjs";

const chromium = ["chromium", "chromium-browser", "google-chrome"].find((name) => spawnSync("which", [name]).status === 0);
const required = process.env.ODIN_REQUIRE_BROWSER;

const page = (gateway) => `<!doctype html><script type="module">
import { dial } from "/index.js";
const tell = (o) => fetch("/tell", { method: "POST", body: JSON.stringify(o) });
let at = Promise.resolve();
const say = (o) => (at = at.then(() => tell(o)));
try {
  const c = await dial(${JSON.stringify(gateway)}, {
    minBackoff: 50, maxBackoff: 300,
    onGap: (gap) => say({ gap }),
    onError: (e) => say({ error: e.message }),
    onState: (s) => say({ connected: s.connected }),
  });
  await c.subscribe({ channels: ["a", "w.*"], onMessage: (m) => say({ m: { channel: m.channel, seq: m.seq, raw: m.raw } }) });
  say({ subscribed: true });
} catch (e) {
  say({ error: String(e) });
}
</script>`;

test("a page in Chromium", { skip: !chromium && !required && "Chromium is not installed" }, async (t) => {
  assert.ok(chromium, "ODIN_REQUIRE_BROWSER is set, and there is no Chromium");
  const told = new Queue();
  let gateway;
  const site = http.createServer((req, res) => {
    if (req.url === "/tell") {
      let body = "";
      req.on("data", (b) => (body += b));
      req.on("end", () => {
        told.put(JSON.parse(body));
        res.end();
      });
    } else if (req.url === "/") {
      res.setHeader("Content-Type", "text/html; charset=utf-8");
      res.end(page(gateway));
    } else {
      const file = new URL(`../dist${req.url}`, import.meta.url);
      res.setHeader("Content-Type", "text/javascript");
      if (fs.existsSync(file)) res.end(fs.readFileSync(file));
      else res.writeHead(404).end();
    }
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    site.close();
    site.closeAllConnections();
  });
  const origin = `http://127.0.0.1:${site.address().port}`;
  let s = await Server.start(t, "--allow-origin", origin);
  gateway = s.url;
  const child = spawn(chromium, [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    `--user-data-dir=${path.join(scratch, "profile")}`, origin,
  ], { detached: true, stdio: "ignore", env: { ...process.env, TMPDIR: scratch } }); // its helpers are its group
  const gone = new Promise((resolve) => child.once("exit", resolve));
  t.after(async () => {
    process.kill(-child.pid, "SIGKILL");
    await gone;
  });

  const [k, l] = [new Checker(), new Ledger()];
  const until = async (ok) => {
    for (;;) {
      const o = await told.get("a report", 40_000);
      if (o.m) k.onMessage(o.m);
      if (o.gap) k.gaps.push(o.gap);
      if (o.error) k.errors.push(o.error);
      if (ok(o)) return;
    }
  };
  const ends = () => [...l.last].every(([ch, seq]) => k.last.get(ch) >= seq);
  await until((o) => o.subscribed);
  await l.publish(s, 100, "a", "w.x");
  await until(ends);
  await s.kill();
  s = await s.restart();
  await l.publish(s, 20, "a", "w.x");
  await until((o) => o.connected);
  await l.publish(s, 20, "a", "w.x", "w.y");
  await until(ends);
  t.diagnostic(`${await k.whole(l)} announced in ${JSON.stringify(k.gaps)}`);
});
