import assert from "node:assert/strict";
import { test } from "node:test";
import { dial } from "../dist/index.js";
import { Backoff } from "../dist/backoff.js";
import { BrowserLike, connected, Fake, following, Recorder, sleep, subscribed, waitFor, within } from "./fake.mjs";

const at = (epoch, seq) => ({ epoch, seq });

test("positions of channels and wildcards come back", async (t) => {
  const { s, c, conn, r } = await following(t, "a", "b", "w.*");
  conn.msg("a", 101, 100);
  conn.msg("w.x", 102, 3);
  conn.gap("w.y", 100, 104, "broker");
  await r.want("a 101", "w.x 102", "gap w.y 100 104 broker");
  conn.ws.terminate();
  await r.want("error network");
  const next = await s.accept();
  const o = await next.expect("sub");
  assert.deepEqual(o.since, { a: at("e7", 101), b: at("e7", 100), "w.*": at("e7", 100), "w.x": at("e7", 102), "w.y": at("e7", 103) });
  next.ackAt(o, "e7", 110);
  next.msg("w.x", 102, 3); // again
  next.msg("w.y", 105, 103);
  next.msg("w.z", 106, 0);
  next.msg("a", 107, 101);
  next.msg("b", 108, 90); // the first ever: its prev is before the position
  next.msg("w.late", 111, 99);
  await r.want("w.y 105", "w.z 106", "a 107", "b 108", "w.late 111");
  assert.deepEqual([c.stats().duplicates, c.stats().connects], [1, 2]);
});

test("saved positions", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  const mine = { a: at("e7", 101), "w.*": at("e7", 100), "w.x": at("e7", 102) };
  await subscribed(c, { ...r.follow("a", "w.*"), since: { ...mine, other: at("e7", 1) } }, async () => {
    const o = await conn.expect("sub");
    assert.deepEqual(o.since, mine);
    conn.ackAt(o, "e7", 110);
  });
  conn.msg("w.x", 102, 3);
  conn.msg("w.x", 103, 102);
  conn.msg("a", 110, 105);
  await r.want("w.x 103", "error unexplained");
});

test("another epoch", async (t) => {
  const { s, c, conn, r } = await following(t, "a", "w.*");
  conn.msg("w.x", 101, 100);
  conn.msg("w.quiet", 102, 100);
  await r.want("w.x 101", "w.quiet 102");
  conn.ws.terminate();
  await r.want("error network");
  const next = await s.accept();
  next.ackAt(await next.expect("sub"), "e8", 5);
  next.gap("a", 100, 6, "epoch");
  next.gap("w.*", 100, 6, "epoch");
  next.gap("w.x", 101, 4, "epoch");
  next.msg("w.x", 7, 3);
  next.msg("w.quiet", 8, 2);
  next.msg("a", 9, 5);
  await r.want("gap a 100 6 epoch", "gap w.* 100 6 epoch", "gap w.x 101 4 epoch", "w.x 7", "w.quiet 8", "a 9");
  await r.nothing();
  assert.deepEqual(c.positions(), { a: at("e8", 9), "w.*": at("e8", 5), "w.x": at("e8", 7), "w.quiet": at("e8", 8) });
});

test("another epoch and nothing said", async (t) => {
  const { s, conn, r } = await following(t, "a");
  conn.ws.terminate();
  await r.want("error network");
  const next = await s.accept();
  next.ackAt(await next.expect("sub"), "e8", 5);
  next.msg("a", 6, 5);
  await r.want("error unexplained", "gap a 100 6 epoch", "a 6");
});

test("another epoch, by its name", async (t) => {
  const { s, c, conn, r } = await following(t, "a", "w.*");
  const gap = (conn, ch, after, before, epoch) => conn.send({ t: "gap", ch, after, before, why: "epoch", epoch });
  conn.msg("w.x", 101, 100);
  gap(conn, "w.x", 101, 4, "e8");
  gap(conn, "a", 100, 3, "e8");
  conn.msg("a", 5, 2);
  await r.want("w.x 101", "gap w.x 101 4 epoch", "gap a 100 3 epoch", "a 5");
  const want = { a: at("e8", 5), "w.*": at("e8", 3), "w.x": at("e8", 3) };
  assert.deepEqual(c.positions(), want);
  conn.ws.terminate();
  await r.want("error network");
  // The next node has yet to hear of it, and then does.
  const next = await s.accept();
  const o = await next.expect("sub");
  assert.deepEqual(o.since, want);
  next.ackAt(o, "e7", 110);
  gap(next, "a", 5, 111, "e7");
  gap(next, "w.*", 3, 111, "e7");
  gap(next, "w.x", 3, 111, "e7");
  gap(next, "a", 110, 7, "e8");
  gap(next, "w.x", 110, 7, "e8");
  next.msg("a", 8, 5);
  next.msg("w.y", 9, 4);
  await r.want("gap a 5 111 epoch", "gap w.* 3 111 epoch", "gap w.x 3 111 epoch",
    "gap a 110 7 epoch", "gap w.x 110 7 epoch", "a 8", "w.y 9");
  assert.deepEqual(c.positions(), { a: at("e8", 8), "w.*": at("e8", 6), "w.x": at("e8", 6), "w.y": at("e8", 9) });
});

test("a wildcard is told under a connection", async (t) => {
  const { c, conn, r } = await following(t, "w.*");
  conn.msg("w.x", 101, 100);
  conn.gap("w.*", 150, 160, "broker");
  await r.want("w.x 101", "gap w.* 150 160 broker");
  // What came before 150 may still be on its way: the position is what it was.
  assert.deepEqual(c.positions(), { "w.*": at("e7", 100), "w.x": at("e7", 101) });
  const epoch = (ch, after, before) => conn.send({ t: "gap", ch, after, before, why: "epoch", epoch: "e8" });
  conn.msg("w.y", 155, 120);
  epoch("w.*", 160, 3);
  conn.msg("w.x", 4, 0); // the node does not know it, so only the wildcard's gap says so
  epoch("w.y", 155, 3);
  conn.msg("w.y", 5, 1);
  await r.want("w.y 155", "gap w.* 160 3 epoch", "w.x 4", "gap w.y 155 3 epoch", "w.y 5");
  assert.deepEqual(c.positions(), { "w.*": at("e8", 2), "w.x": at("e8", 4), "w.y": at("e8", 5) });
});

test("a channel may be called anything", async (t) => {
  const names = ["__proto__", "constructor", "toString"];
  const { s, c, conn, r } = await following(t, ...names);
  for (const name of names) conn.msg(name, 101, 100);
  await r.want(...names.map((name) => `${name} 101`));
  conn.ws.terminate();
  await r.want("error network");
  const o = await (await s.accept()).expect("sub");
  for (const name of names) {
    assert.deepEqual(Object.getOwnPropertyDescriptor(o.since, name)?.value, at("e7", 101));
    assert.deepEqual(Object.getOwnPropertyDescriptor(c.positions(), name)?.value, at("e7", 101));
  }
});

test("another epoch under a connection", async (t) => {
  const { s, c, conn, r } = await following(t, "a", "w.*");
  conn.msg("w.x", 101, 100);
  conn.gap("w.x", 101, 1, "epoch");
  conn.gap("a", 100, 1, "epoch");
  const o = await conn.expect("list");
  conn.msg("a", 1, 0);
  await r.want("w.x 101", "gap w.x 101 1 epoch", "gap a 100 1 epoch", "a 1");
  conn.send({ t: "ack", id: o.id, ch: { a: at("e8", 1), "w.x": at("e8", 0), "w.*": at("e8", 1) } });
  const want = { a: at("e8", 1), "w.*": at("e8", 0), "w.x": at("e8", 0) };
  await waitFor("positions", () => c.positions()["w.*"].epoch === "e8");
  assert.deepEqual(c.positions(), want);
  conn.ws.terminate();
  const next = await s.accept();
  assert.deepEqual((await next.expect("sub")).since, want);
});

test("a wildcard's position follows the stream, one checkpoint behind", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options({ checkpoint: 5 }));
  await subscribed(c, r.follow("w.*"), async () => conn.ackAt(await conn.expect("sub"), "e7", 100));
  conn.msg("w.x", 105, 100);
  for (const head of [200, 300]) {
    const o = await conn.expect("list");
    conn.send({ t: "ack", id: o.id, ch: { "w.*": at("e7", head), "w.x": at("e7", 105), "w.y": at("e7", 90) } });
  }
  await waitFor("positions", () => c.positions()["w.*"].seq === 200);
  assert.deepEqual(c.positions(), { "w.*": at("e7", 200), "w.x": at("e7", 105), "w.y": at("e7", 90) });
  conn.msg("w.y", 301, 90);
  conn.msg("w.z", 302, 0);
  await r.want("w.x 105", "w.y 301", "w.z 302");
});

test("a thousand positions are more than one message may hold", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  const epoch = "1763000000000000000";
  const name = (kind, i) => `${kind}.INSTRUMENT-${String(i).padStart(4, "0")}`;
  const names = Array.from({ length: 1000 }, (_, i) => name("explicit", i));
  await subscribed(c, r.follow(...names), async () => conn.ackAt(await conn.expect("sub"), epoch, 100));
  await subscribed(c, r.follow("wild.*"), async () => conn.ackAt(await conn.expect("sub"), epoch, 100));
  for (let i = 0; i < 1000; i++) conn.msg(name("wild", i), 101 + i, 1);
  for (let i = 0; i < 1000; i++) await r.want(`${name("wild", i)} ${101 + i}`);
  conn.ws.terminate();
  const next = await s.accept();
  const seen = new Set();
  for (let commands = 0; !seen.has("wild.*"); commands++) {
    assert.ok(commands < 10);
    const o = await next.expect("sub");
    assert.ok(o.size <= 60 << 10, `${o.size} bytes`);
    for (const n of o.ch) {
      assert.ok(o.since[n].seq > 0, n);
      if (n === "wild.*") assert.equal(seen.size, 2000);
      seen.add(n);
    }
    next.ackAt(o, epoch, 2000);
  }
  for (let given = 0; given < 1000; ) given += (await next.expect("unsub")).ch.length;
  next.msg("wild.INSTRUMENT-0000", 3000, 101);
  await r.want("error network", "wild.INSTRUMENT-0000 3000");
});

test("a position the stream has lost", async (t) => {
  const { s, c, conn, r } = await following(t, "a");
  conn.ws.terminate();
  const next = await s.accept();
  for (;;) {
    const o = await next.expect("sub");
    if (!o.since) {
      next.ackAt(o, "e7", 60);
      break;
    }
    next.send({ t: "ack", id: o.id, rej: { a: "bad_position" } });
  }
  next.msg("a", 61, 60);
  await r.want("error network", "error bad_position", "error bad_position", "gap a 100 61 bad_position", "a 61");
  assert.equal(c.positions().a.seq, 61);
});

for (const [code, stays] of [
  [1000, true], [1001, true], [1002, false], [1003, false], [1007, false], [1008, false], [1009, false], [1011, true],
  [1012, true], [1013, true], [4001, false], [4003, false], [4101, true], [4102, true], [4201, true], [4999, true],
]) {
  test(`close ${code}`, async (t) => {
    const { s, c, conn, r } = await following(t, "a");
    conn.msg("a", 101, 100);
    await r.want("a 101");
    conn.ws.close(code);
    if (stays) {
      await r.want(`error closed ${code}`);
      const next = await s.accept();
      assert.equal((await next.expect("sub")).since.a.seq, 101);
      return;
    }
    await r.want(`fatal closed ${code}`);
    await within(c.done, "its end");
    assert.equal(c.error.status, code);
    await assert.rejects(c.subscribe(r.follow("b")), { status: code });
    assert.equal(s.headers.length, 1);
  });
}

test("bye says when to come back", async (t) => {
  const [a, b, r] = [await Fake.start(t), await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, a, r.options({ fallback: [b.url] }));
  await subscribed(c, r.follow("a"), async () => conn.ackAt(await conn.expect("sub"), "e7", 100));
  conn.send({ t: "bye", code: 1012, retry_ms: 150 });
  conn.ws.close(1012);
  const began = Date.now();
  const next = await b.accept();
  const took = Date.now() - began;
  assert.ok(took >= 140 && took < 4000, `${took} ms`);
  assert.equal((await next.expect("sub")).since.a.seq, 100);
});

test("the next node, and the same one", async (t) => {
  const [a, b, r] = [await Fake.start(t), await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, a, r.options({ fallback: [b.url] }));
  await subscribed(c, r.follow("a"), async () => conn.ackAt(await conn.expect("sub"), "e7", 100));
  a.refuse = () => ({ status: 502 });
  conn.ws.terminate();
  let next = await b.accept();
  await next.expect("sub");
  next.ws.close(4101); // its own fault
  next = await b.accept();
  await next.expect("sub");
  next.ws.close(1013); // a is asked, and refuses
  await b.accept();
  await r.want("error network", "error closed 4101", "error closed 1013", "error refused 502");
});

test("Retry-After, where it can be read", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  let refused = 0;
  s.refuse = () => {
    if (refused) return null;
    refused = Date.now();
    return { status: 503, headers: { "Retry-After": 5 }, body: '{"message":"Server at capacity","retry_after_ms":120}' };
  };
  await connected(t, s, r.options());
  const took = Date.now() - refused;
  assert.ok(took >= 110 && took < 4000, `${took} ms`);
  await r.want("error refused 503");
});

test("a browser doesn't see why it is refused, and backs off", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  let n = 0;
  s.refuse = () => (n++ < 2 ? { status: 503 } : null);
  await connected(t, s, r.options({ WebSocket: BrowserLike }));
  await r.want("error network", "error network");
});

test("refusals that are final, and that are not", async (t) => {
  const s = await Fake.start(t);
  for (const [status, final] of [[400, true], [401, true], [403, true], [404, true], [426, true], [408, false], [429, false], [500, false], [503, false]]) {
    s.refuse = () => ({ status });
    const r = new Recorder();
    const abort = new AbortController();
    const dialled = dial(s.url, r.options({ signal: abort.signal })).catch((e) => e);
    await r.want(`${final ? "fatal" : "error"} refused ${status}`);
    if (!final) abort.abort();
    const err = await dialled;
    assert.equal(err.status === status && err.fatal, final, `${status}: ${err}`);
  }
});

test("silence", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [, conn] = await connected(t, s, r.options({ clock: { hb: 400 } }), { ping_ms: 200 });
  for (let i = 0; i < 12; i++) {
    conn.send({ t: "hb", ts: 1 });
    await sleep(50);
  }
  const began = Date.now();
  await conn.expect("ping"); // the probe
  await r.want("error silent");
  assert.ok(Date.now() - began < 4000);
  await s.accept();
});

test("no greeting", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const dialled = assert.rejects(dial(s.url, r.options({ clock: { handshake: 500 } })), { code: "bad_frame" });
  await s.conns.get("a connection");
  await r.want("error network");
  (await s.conns.get("a connection")).send({ t: "msg", ch: "a", seq: 1, prev: 0, d: 1 });
  await r.want("error bad_frame");
  (await s.conns.get("a connection")).send({ t: "hello", v: 2 });
  await r.want("fatal bad_frame");
  await dialled;
});

test("no answer", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, s, r.options({ clock: { answer: 1000 } }));
  const sub = c.subscribe(r.follow("a"));
  await conn.expect("sub");
  for (let i = 0; i < 60; i++) {
    conn.send({ t: "hb", ts: 1 });
    await sleep(20);
  }
  await r.want("error silent");
  const next = await s.accept();
  next.ackAt(await next.expect("sub"), "e7", 1);
  await sub;
});

test("close", async (t) => {
  const { s, c, conn, r } = await following(t, "a");
  const waiting = assert.rejects(c.subscribe(r.follow("b")), { code: "ended" });
  await conn.expect("sub");
  c.close();
  c.close();
  assert.equal(await within(conn.over, "its goodbye"), 1000);
  await within(c.done, "its end");
  await waiting;
  assert.equal(c.error.code, "ended");
  await assert.rejects(c.subscribe(r.follow("c")), { code: "ended" });
  await r.nothing();
  assert.equal(s.headers.length, 1);
});

test("close in a callback, and while waiting to reconnect", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, s, r.options());
  const onMessage = (m) => {
    r.say(`a ${m.seq}`);
    c.close();
  };
  await subscribed(c, { channels: ["a"], onMessage }, async () => conn.ackAt(await conn.expect("sub"), "e7", 1));
  conn.msg("a", 2, 1);
  conn.msg("a", 3, 2);
  await r.want("a 2");
  await within(c.done, "its end");
  await r.nothing();
  s.refuse = () => ({ status: 500 });
  await assert.rejects(dial(s.url, r.options({ minBackoff: 60_000, maxBackoff: 60_000, signal: AbortSignal.timeout(50) })));
});

test("subscribe gives up", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, s, r.options());
  const abort = new AbortController();
  const sub = assert.rejects(c.subscribe({ ...r.follow("a"), signal: abort.signal }), { name: "AbortError" });
  await conn.expect("sub");
  abort.abort();
  await sub;
  await conn.expect("unsub");
});

test("back-off", () => {
  const b = new Backoff(100, 1000);
  let longest = 0;
  for (let i = 0; i < 200; i++) {
    b.failures = 2;
    const d = b.next("lost", 0);
    assert.ok(d <= 400);
    longest = Math.max(longest, d);
  }
  assert.ok(longest > 200, "no jitter to speak of");
  b.failures = 70;
  assert.ok(b.next("lost", 0) <= 1000);
  assert.ok(b.next("busy", 3000) >= 3000);
  assert.equal(b.next("drained", 70), 70);
  const c = new Backoff(1, 30_000);
  assert.ok(c.next("busy", 0) >= 1000);
  c.failures = 0;
  assert.equal(c.next("atOnce", 0), 0);
});
