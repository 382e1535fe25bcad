// The parts of the page that need no browser, built as the page is.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "vite";

async function load(name) {
  const entry = fileURLToPath(new URL(`../src/${name}.ts`, import.meta.url));
  const out = await build({
    configFile: false, logLevel: "error",
    build: { write: false, minify: false, lib: { entry, formats: ["es"], fileName: "out" } },
  });
  const { code } = out[0].output[0];
  return import(`data:text/javascript,${encodeURIComponent(code)}`);
}

const { History, perSecond } = await load("history");
const format = await load("format");

const sample = (at, n, uptimeSeconds = at) => ({ at: at * 1000, s: { uptimeSeconds, n } });
const ofN = (s) => s.n;

test("a day of samples takes no more than an hour of points", () => {
  const h = new History((now, before) => [now.s.n, perSecond(now, before, ofN)]);
  const day = 86_400;
  for (let i = 1; i <= day; i++) h.add(sample(i, 3 * i));
  const [times, n, rate] = h.columns(300, [0, 1]);
  assert.ok(times.length <= 302 && times.at(-1) === day && times[0] >= day - 302, `${times.length} points from ${times[0]}`);
  assert.equal(n.at(-1), 3 * day);
  assert.ok(rate.every((v) => v === 3));
  const [hours, mean] = h.columns(3600, [0]);
  assert.ok(hours.length <= 302 && hours.length >= 299 && hours[0] <= day - 3588, `${hours.length} points from ${hours[0]}`);
  assert.equal(mean.at(-1) - mean.at(-2), 36); // a point for twelve seconds
  assert.equal(h.lately(ofN), 180);
});

test("what was not seen is a gap, and one is enough", () => {
  const h = new History((now, before) => [perSecond(now, before, ofN)]);
  h.add(sample(1, 10));
  h.add(sample(2, 20));
  h.lost();
  h.lost();
  h.add(sample(9, 90));
  const [times, rate] = h.columns(300, [0]);
  assert.deepEqual(times, [1, 2, 2.001, 9]);
  assert.deepEqual(rate, [null, 10, null, 10]);
});

test("another process begins to count again", () => {
  const h = new History((now, before) => [perSecond(now, before, ofN)]);
  h.add(sample(100, 1000));
  h.add(sample(101, 1100));
  h.add(sample(105, 4, 1));
  h.add(sample(106, 6, 2));
  assert.deepEqual(h.columns(300, [0])[1], [null, 100, null, 2]);
  assert.equal(h.lately(ofN), 2);
  // Also one that was not seen until it was up for longer than the one before.
  h.restarted();
  h.add(sample(200, 90_000, 50));
  h.add(sample(201, 90_003, 51));
  assert.deepEqual(h.columns(300, [0])[1], [null, 100, null, 2, null, 3]);
  assert.equal(h.lately(ofN), 3);
});

test("a minute is a minute of the gateway, whatever came between", () => {
  const h = new History(() => [0]);
  for (let i = 1; i <= 20; i++) h.add(sample(i, i));
  assert.equal(h.lately(ofN), 19);
  assert.equal(h.latelySaid.replace("\u202f", "_"), "last 19_s");
  h.lost();
  h.add(sample(700, 10_000)); // ten minutes later: not what came meanwhile
  h.add(sample(701, 10_001));
  assert.equal(h.lately(ofN), 1);
  assert.equal(h.latelySaid.replace("\u202f", "_"), "last 1_s");
  for (let i = 702; i < 800; i++) h.add(sample(i, 9300 + i));
  assert.equal(h.lately(ofN), 60);
  assert.equal(h.latelySaid, "last minute");
});

// The browser's clock is not asked, and the gateway's may be put back.
test("points keep their distance when the clock is put back", () => {
  const h = new History((now) => [now.s.n]);
  for (let i = 1; i <= 10; i++) h.add(sample(4000 + i, i, i));
  for (let i = 11; i <= 20; i++) h.add(sample(400 + i, i, i));
  const [times, n] = h.columns(300, [0]);
  assert.deepEqual(n, Array.from({ length: 20 }, (_, i) => i + 1));
  assert.ok(times.at(-1) === 420 && Math.abs(times[0] - 402) < 0.01, times.join(" "));
  for (let i = 1; i < times.length; i++) assert.ok(times[i] > times[i - 1]);
});

test("figures", () => {
  const gap = "\u202f";
  for (const [f, v, want] of [
    ["count", 0, "0"], ["count", 999, "999"], ["count", 54613, "54_613"], ["count", 1234567, "1_234_567"],
    ["rate", 0, "0_/s"], ["rate", 0.25, "0.3_/s"], ["rate", 833, "833_/s"], ["rate", 999.96, "1.00_k/s"], ["rate", 145_234, "145_k/s"],
    ["bytes", 0, "0_B"], ["bytes", 1023, "1023_B"], ["bytes", 1024, "1.00_KiB"], ["bytes", 536870912, "512_MiB"], ["bytes", 1.5 * 2 ** 40, "1.50_TiB"],
    ["ms", 0, "0_ms"], ["ms", 0.0123, "12.3_µs"], ["ms", 1.5, "1.50_ms"], ["ms", 613, "613_ms"], ["ms", 12_000, "12.0_s"],
    ["span", 59, "59_s"], ["span", 61, "1_min 1_s"], ["span", 3700, "1_h 1_min"], ["span", 200_000, "2_d 7_h"],
  ]) {
    assert.equal(format[f](v).replaceAll(gap, "_"), want, `${f}(${v})`);
  }
  assert.equal(format.percent(1, 0), "–");
  assert.equal(format.percent(499, 500).replaceAll(gap, "_"), "99.8_%");
  assert.equal(format.percent(54_612, 54_613).replaceAll(gap, "_"), "99.9_%");
  assert.equal(format.percent(500, 500).replaceAll(gap, "_"), "100_%");
});
