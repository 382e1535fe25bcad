// The page in Chromium, on the real binary.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";
import { bin, scratch, Server } from "./server.mjs";

const executablePath = ["chromium", "chromium-browser", "google-chrome"]
  .map((name) => spawnSync("which", [name], { encoding: "utf8" }).stdout.trim()).find(Boolean);
const skip = !executablePath && !process.env.ODIN_REQUIRE_BROWSER && "Chromium is not installed";

// Where the pictures go; kept only if somebody named the place.
const pictures = process.env.ODIN_PAGE_PICTURES || scratch;

let browser;
before(async () => {
  if (skip) return;
  assert.ok(executablePath, "ODIN_REQUIRE_BROWSER is set, and there is no Chromium");
  browser = await chromium.launch({
    executablePath,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
  });
});
after(() => browser?.close());

// open shows the page and watches it: every request must go to the gateway, and
// nothing may be complained of but, while down, connections that fail.
async function open(server, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 1000 }, ...options });
  const page = await context.newPage();
  const seen = { urls: [], faults: [], down: false };
  const fault = (text) => {
    if (!(seen.down && /WebSocket connection to .* failed/.test(text))) seen.faults.push(text);
  };
  page.on("request", (r) => seen.urls.push(r.url()));
  page.on("websocket", (w) => seen.urls.push(w.url()));
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && fault(m.text()));
  page.on("pageerror", (e) => fault(e.message));
  server.leave.push(async () => {
    await context.close();
    const host = new URL(server.page).host;
    assert.deepEqual(seen.urls.filter((u) => new URL(u).host !== host), [], "requests to others");
    assert.ok(seen.urls.some((u) => u.startsWith("ws://")), "it was not watched");
    assert.deepEqual(seen.faults, [], "console");
  });
  page.seen = seen;
  page.setDefaultTimeout(30_000);
  await page.goto(server.page);
  return page;
}

// says waits until an element's text is, or matches, what it should.
async function says(page, selector, want) {
  await page.waitForFunction(([sel, text, re]) => {
    const is = document.querySelector(sel)?.textContent ?? "";
    return re ? new RegExp(re).test(is) : is === text;
  }, [selector, typeof want === "string" ? want : "", typeof want === "string" ? "" : want.source]).catch(async () => {
    assert.fail(`${selector} says ${JSON.stringify(await page.textContent(selector))}, want ${want}`);
  });
}

const gap = "\u202f";
const count = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, gap);
const wide = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

test("the page shows what /stats says", { skip }, async (t) => {
  const s = await Server.start(t, "--max-connections", "20", "--memory-limit", "512MiB", "--node", "n-page");
  await s.publish(1, "hot.a", "hot.b"); // the channels are there before anybody follows
  await s.load(32, "--channel", "hot.*"); // twelve too many
  const page = await open(s);
  await says(page, "#live", "live");
  await says(page, "#conn-now", "20");
  const st = await s.stats();
  assert.equal(st.currentConnections, 20);
  await says(page, "#conn-max", `of ${st.maxConnections}`);
  await says(page, "#conn-full", `100${gap}%`);
  await says(page, "#conn-admitted", count(st.admitted));
  await says(page, "#conn-refused", count(st.rejected["503"]));
  await says(page, "#node", "n-page");
  await says(page, "#version", st.version);
  await says(page, "#state-ready", "ready");
  await says(page, "#state-broker", "broker connected");
  await says(page, "#state-pressure", "memory normal");
  await says(page, "#mem-limit", `of 512${gap}MiB`);
  await says(page, "#top-of", `of 2, ${count(st.subscriptions)} subscriptions`);
  await says(page, "#pairs", new RegExp(st.broker.epoch));

  // The terms of the memory in use add up to it, to what rounding leaves.
  const units = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };
  const [used, terms] = await page.evaluate(() => [
    document.getElementById("mem-used").textContent,
    [...document.querySelectorAll("#mem-terms tbody tr")].map((tr) => tr.cells[1].textContent),
  ]);
  const size = (text) => parseFloat(text) * units[text.split(gap)[1]];
  const total = terms.map(size).reduce((a, b) => a + b, 0);
  assert.ok(terms.length >= 4 && Math.abs(total - size(used)) < 0.02 * size(used), `${terms} make ${used}`);

  // What it says of capacity is what the command says.
  const sum = JSON.parse(execFileSync(bin, ["capacity", "--memory", "512MiB", "--json"], { encoding: "utf8" }));
  assert.deepEqual(st.capacity.terms, sum.terms);
  await says(page, "#cap-formula", new RegExp(`= ${count(sum.by_memory)}$`));
  await says(page, "#cap-bound", "bound by configured");

  // Refusals are listed, alike ones together.
  const refused = await page.$$eval("#ref-table tbody tr", (rows) => rows.map((r) => [...r.cells].map((c) => c.textContent)));
  assert.ok(refused.length > 0 && refused.every(([, what, why, , from]) => what === "503" && why === "at capacity" && from === "127.0.0.1"), JSON.stringify(refused));
  assert.equal(refused.reduce((n, r) => n + Number(r[3]), 0), st.rejected["503"]);

  // Messages are seen as they come: a rate, the channel, who follows it.
  const feed = setInterval(() => void s.publish(10, "hot.a", "hot.b").catch(() => {}), 100);
  t.after(() => clearInterval(feed));
  await says(page, "#msg-in", /[1-9].*\/s$/);
  await says(page, "#msg-out", /[1-9].*\/s$/);
  await says(page, "#top-table tbody tr:nth-child(1)", /^hot\.[ab].*20$/);
  clearInterval(feed);
  await page.click("#slow-look");
  await says(page, "#slow-said", /^as of/);
  assert.equal(await page.locator("canvas").count(), 4);
  assert.match(await page.textContent("#conn-chart figcaption"), /Connections: now 20/);
});

test("it says when the gateway is gone, silent, back", { skip }, async (t) => {
  let s = await Server.start(t);
  const page = await open(s);
  await says(page, "#live", "live");
  const epoch = await page.evaluate(() => document.getElementById("uptime").textContent);
  assert.match(epoch, /s$/);

  s.child.kill("SIGSTOP");
  await says(page, "#live", "silent");
  await says(page, "#notice", /silent\. What is shown is of/);
  assert.ok(await page.evaluate(() => document.body.classList.contains("stale")));
  s.child.kill("SIGCONT");
  await says(page, "#live", "live");
  assert.ok(await page.evaluate(() => document.getElementById("notice").hidden && !document.body.classList.contains("stale")));

  page.seen.down = true;
  await s.end("SIGKILL");
  await says(page, "#live", "reconnecting");
  await says(page, "#notice", /^Connection to the gateway lost\. What is shown is of/);
  await page.waitForFunction(() => document.body.classList.contains("stale") && document.title.startsWith("(stale)"));
  s = await s.restart();
  await s.publish(3, "after.restart");
  await says(page, "#live", "live");
  await says(page, "#pairs", /Delivered to this node3/); // counts of the new process, not the old

  await s.end("SIGTERM"); // drains
  await says(page, "#notice", /^Connection to the gateway lost/);
});

test("another process is told by its epoch, however long it is up", { skip }, async (t) => {
  let s = await Server.start(t);
  const page = await open(s);
  await says(page, "#live", "live");
  await says(page, "#msg-in", `0${gap}/s`);
  page.seen.down = true;
  await page.context().setOffline(true); // what goes on beside it
  const { uptimeSeconds } = await s.stats();
  await s.end("SIGKILL");
  s = await s.restart();
  await s.publish(1000, "hot.a", "hot.b");
  while ((await s.stats()).uptimeSeconds < uptimeSeconds + 1) await sleep(100);
  assert.match(await page.textContent("#live"), /reconnecting/);
  await page.context().setOffline(false);
  await says(page, "#pairs", /Delivered to this node2\u202f000/);
  await says(page, "#msg-in", `0${gap}/s`);
  assert.match(await page.textContent("#in-chart figcaption"), /between 0.\/s and 0.\/s/);
});

test("with API keys it asks for one", { skip }, async (t) => {
  const keyed = (...args) => {
    const out = execFileSync(bin, ["key", "new", ...args], { encoding: "utf8" });
    return { key: /odin_[A-Za-z0-9_-]+/.exec(out)[0], line: /^\S+ (admin|publish) \S+ sha256:\S+$/m.exec(out)[0] };
  };
  const [ops, feed] = [keyed("ops", "--role", "admin"), keyed("feed", "--channels", "a.*")];
  const file = path.join(scratch, "keys");
  fs.writeFileSync(file, `${ops.line}\n${feed.line}\n`, { mode: 0o600 });
  const s = await Server.start(t, "--publish-key-file", file);
  const page = await open(s);
  await page.waitForSelector("#ask[open]");
  assert.equal(await page.textContent("#conn-now"), "–");
  for (let i = 0; i < 3; i++) await page.keyboard.press("Escape"); // there is nothing to see without
  await page.waitForSelector("#ask[open]");
  await page.fill("#ask-key", feed.key); // not an admin's
  await page.press("#ask-key", "Enter");
  await says(page, "#ask-why", /did not accept/);
  await page.fill("#ask-key", ops.key);
  await page.press("#ask-key", "Enter");
  await says(page, "#live", "live");
  await says(page, "#conn-now", "0");
  await page.click("#slow-look"); // shows it too
  await says(page, "#slow-said", /^as of/);
  await page.reload();
  await says(page, "#live", "live"); // the tab has kept it
  for (const { key } of [ops, feed]) {
    assert.ok(!s.log.includes(key), "a key is in the log");
    assert.ok(!page.seen.urls.some((u) => u.includes(key)), "a key is in a URL");
  }
  fs.writeFileSync(`${file}.next`, `${feed.line}\n`, { mode: 0o600 });
  fs.renameSync(`${file}.next`, file);
  await page.waitForSelector("#ask[open]"); // taken back
});

test("light, dark and on a phone", { skip }, async (t) => {
  const s = await Server.start(t, "--demo", "--max-connections", "40", "--memory-limit", "512MiB");
  await s.load(60, "--channel", "trade.*", "--slow", "2");
  for (const [name, options] of Object.entries({
    light: { colorScheme: "light" },
    dark: { colorScheme: "dark" },
    phone: { colorScheme: "light", viewport: { width: 360, height: 740 } },
  })) {
    const page = await open(s, options);
    await says(page, "#msg-out", /[1-9].*\/s$/);
    assert.ok((await wide(page)) <= 0, `${name}: wider than the screen`);
    const shot = await page.screenshot({ path: path.join(pictures, `page-${name}.png`), fullPage: true });
    assert.ok(shot.length > 20_000, `${name}: ${shot.length} bytes of picture`);
    if (name === "phone") continue;
    // The toggle says otherwise than the system.
    const dark = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const was = await dark();
    await page.click(`#theme label:has(input[value="${name === "light" ? "dark" : "light"}"])`);
    assert.notEqual(await dark(), was);
    await page.click('#theme label:has(input[value="auto"])');
    assert.equal(await dark(), was);
    await page.click('#span label:has(input[value="3600"])');
  }
});

test("empty, and without a limit of its own", { skip }, async (t) => {
  const s = await Server.start(t);
  const page = await open(s, { viewport: { width: 360, height: 740 } });
  await says(page, "#live", "live");
  await says(page, "#ref-table tbody", "Nobody has been refused or thrown out.");
  await says(page, "#close-table tbody", "No connection has ended yet.");
  await says(page, "#top-table tbody", /^No channel/);
  await says(page, "#conn-now", "0");
  assert.ok((await wide(page)) <= 0);
  await page.screenshot({ path: path.join(pictures, "page-empty.png"), fullPage: true });
});
