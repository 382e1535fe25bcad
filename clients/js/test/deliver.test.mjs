import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { dial } from "../dist/index.js";
import { BrowserLike, connected, Fake, following, Recorder, sleep, subscribed, waitFor, within } from "./fake.mjs";

test("messages come once and in order", async (t) => {
  const { c, conn, r } = await following(t, "a", "w.*");
  conn.msg("a", 101, 99);
  conn.msg("a", 105, 101);
  conn.msg("w.x", 102, 0);
  conn.send({ t: "stale", ch: "a" });
  conn.send({ t: "new kind of frame" });
  conn.send({ t: "live", ch: "a" });
  conn.msg("a", 105, 101); // again
  conn.msg("nobody", 106, 0);
  conn.msg("w.x", 107, 102);
  await r.want("a 101", "a 105", "w.x 102", "stale a true", "stale a false", "w.x 107");
  assert.deepEqual(c.positions(), {
    a: { epoch: "e7", seq: 105 }, "w.x": { epoch: "e7", seq: 107 }, "w.*": { epoch: "e7", seq: 100 },
  });
  const st = c.stats();
  assert.deepEqual([st.messages, st.duplicates, st.strays], [4, 1, 1]);
});

test("the payload is verbatim", async (t) => {
  const { conn } = await following(t, "z");
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, mine] = await connected(t, s, r.options());
  let got;
  const came = new Promise((resolve) => (got = resolve));
  await subscribed(c, { channels: ["a"], onMessage: got }, async () => mine.ackAt(await mine.expect("sub"), "e7", 0));
  const d = '{ "x":1.50,  ",\\"d\\":":"\\u00e9\\/", "z":12345678901234567890}';
  mine.send(`{"t":"msg","ch":"a","seq":1,"prev":0,"ts":1767000000123,"d":${d}}`);
  const m = await within(came, "the message");
  assert.equal(m.raw, d);
  assert.equal(m.data.x, 1.5);
  assert.equal(m.time, 1767000000123);
  void conn;
});

test("messages before the ack of their channel were never asked for", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  await subscribed(c, r.follow("a"), async () => {
    const o = await conn.expect("sub");
    conn.msg("a", 5, 4);
    conn.ackAt(o, "e7", 10);
    conn.msg("a", 11, 10);
  });
  await r.want("a 11");
  await r.nothing();
});

test("options are on the wire", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  const since = { a: { epoch: "e7", seq: 5 }, elsewhere: { epoch: "e7", seq: 6 } };
  await subscribed(c, { ...r.follow("b", "a", "b"), mode: "latest", every: 250, snapshot: true, since }, async () => {
    const { id, size, ...o } = await conn.expect("sub");
    assert.deepEqual(o, { op: "sub", ch: ["a", "b"], since: { a: { epoch: "e7", seq: 5 } }, mode: "latest", ms: 250, snap: true });
    conn.ackAt({ id, ...o }, "e7", 10);
  });
  await subscribed(c, { ...r.follow("c.*"), slowLatest: true }, async () => {
    const o = await conn.expect("sub");
    assert.equal(o.slow, "latest");
    conn.ackAt(o, "e7", 10);
  });
});

test("latest: skip explains, a hole is only told", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  await subscribed(c, { ...r.follow("a"), mode: "latest" }, async () => conn.ackAt(await conn.expect("sub"), "e7", 100));
  conn.msg("a", 110, 108, { skip: 3 });
  conn.msg("a", 111, 110);
  conn.msg("a", 120, 115);
  conn.msg("a", 121, 120);
  await r.want("a 110 skip 3", "a 111", "error unexplained", "gap a 111 120 unexplained", "a 120", "a 121");
  assert.equal(c.stats().skipped, 3);
});

test("all: skip explains nothing", async (t) => {
  const { conn, r } = await following(t, "a");
  conn.msg("a", 110, 108, { skip: 3 });
  await r.want("error unexplained");
  await conn.expect("replay");
});

test("gaps pass as they are, and explain jumps", async (t) => {
  const { c, conn, r } = await following(t, "a", "w.*");
  conn.msg("a", 101, 100);
  conn.gap("a", 101, 110, "broker");
  conn.gap("a", 109, 120, "invalid");
  conn.msg("a", 125, 115); // prev may be any the gaps cover
  conn.msg("a", 126, 125);
  conn.gap("a", 130, 140, "slow"); // leaves 127…130 out
  conn.msg("a", 141, 139);
  conn.msg("w.x", 102, 100);
  conn.gap("w.*", 100, 150, "evicted");
  conn.msg("w.x", 155, 149);
  conn.msg("w.new", 156, 140);
  await r.want(
    "a 101", "gap a 101 110 broker", "gap a 109 120 invalid", "a 125", "a 126",
    "error unexplained", "gap a 126 131 unexplained", "gap a 130 140 slow", "a 141",
    "w.x 102", "gap w.* 100 150 evicted", "w.x 155", "w.new 156",
  );
  await r.nothing();
  assert.deepEqual(c.positions()["w.*"], { epoch: "e7", seq: 149 });
});

test("unsubscribe, and again", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  const sub = await subscribed(c, r.follow("a", "w.*"), async () => conn.ackAt(await conn.expect("sub"), "e7", 100));
  conn.msg("a", 101, 100);
  await r.want("a 101");
  sub.unsubscribe();
  sub.unsubscribe();
  assert.deepEqual((await conn.expect("unsub")).ch.sort(), ["a", "w.*"]);
  conn.msg("a", 102, 101); // was on its way
  assert.deepEqual(c.positions(), {});
  await subscribed(c, r.follow("a"), async () => {
    const o = await conn.expect("sub");
    assert.equal(o.since, undefined);
    conn.msg("a", 103, 102); // still the old one's
    conn.ackAt(o, "e7", 103);
    conn.msg("a", 104, 103);
  });
  await r.want("a 104");
});

test("what is refused is not followed", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  await assert.rejects(c.subscribe(r.follow("a..b")), { code: "bad_channel", channel: "a..b" });
  await assert.rejects(c.subscribe(r.follow()), { code: "options" });
  await assert.rejects(c.subscribe({ ...r.follow("a"), mode: "some" }), { code: "options" });
  let refused = assert.rejects(c.subscribe(r.follow("ok", "secret")), { code: "forbidden", channel: "secret" });
  let o = await conn.expect("sub");
  conn.send({ t: "ack", id: o.id, ch: { ok: { epoch: "e7", seq: 1 } }, rej: { secret: "forbidden" } });
  await refused;
  await conn.expect("unsub");
  await subscribed(c, r.follow("w.*"), async () => conn.ackAt(await conn.expect("sub"), "e7", 1));
  for (const name of ["w.x", "w.*", "w.x.*"]) await assert.rejects(c.subscribe(r.follow(name)), { code: "overlap" });
  refused = assert.rejects(c.subscribe(r.follow("x.*")), /bad_request x\.\*: no/);
  conn.err(await conn.expect("sub"), "bad_request", { message: "no" });
  await refused;
});

test("what can't be yet is asked for again", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  await subscribed(c, r.follow("a"), async () => {
    conn.send({ t: "ack", id: (await conn.expect("sub")).id, rej: { a: "unrecoverable" } });
    conn.err(await conn.expect("sub"), "rate_limited", { retry_ms: 20 });
    const at = Date.now();
    const o = await conn.expect("sub");
    assert.ok(Date.now() - at >= 15);
    conn.err(o, "limit", { message: "busy", retry_ms: 5 });
    await conn.expect("sub");
    conn.err(undefined, "rate_limited", { retry_ms: 1 }); // one too long to be read
    conn.ackAt(await conn.expect("sub"), "e7", 1);
  });
  await r.want("error unrecoverable");
  assert.equal(c.stats().rateLimited, 3);
  conn.err(undefined, "limit", { message: "a wildcard matches a new channel" });
  await r.want("error limit");
});

test("commands keep to the announced rate", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options(), { rate: { burst: 5, per_sec: 50 } });
  const began = Date.now();
  const all = Promise.all(Array.from({ length: 14 }, (_, i) => c.subscribe(r.follow(`ch${i}`))));
  for (let i = 0; i < 14; i++) conn.ackAt(await conn.expect("sub"), "e7", 1);
  await all;
  // 4 at once, 10 more at 47.5 a second.
  assert.ok(Date.now() - began > 180, `${Date.now() - began} ms`);
});

test("what is no frame ends the connection and loses nothing", async (t) => {
  for (const bad of [
    "{", "[]", '{"t":5}', "{}", "null", '{"t":"msg"}', '{"t":"msg","ch":"a","seq":-1,"prev":0,"d":1}',
    '{"t":"msg","ch":"a","seq":5,"prev":5,"d":1}', '{"t":"msg","ch":5,"seq":5,"prev":4,"d":1}',
    '{"t":"msg","ch":"a","seq":102,"prev":101}', '{"t":"msg","ch":"a","seq":9007199254740993,"prev":101,"d":1}',
    '{"t":"gap","ch":"a"}', '{"t":"ack","id":1,"ch":"a"}', Buffer.from("{}"),
  ]) {
    await t.test(String(bad), async (t) => {
      const { s, conn, r } = await following(t, "a");
      conn.msg("a", 101, 100);
      conn.ws.send(bad);
      await r.want("a 101", "error bad_frame");
      const next = await s.accept();
      const o = await next.expect("sub");
      assert.equal(o.since.a.seq, 101);
      next.ackAt(o, "e7", 102);
      next.msg("a", 102, 101);
      await r.want("a 102");
    });
  }
});

test("a callback's promise is waited for", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options({ clock: { hb: 300, answer: 1000 } }), { ping_ms: 400 });
  let running = 0;
  const onMessage = async (m) => {
    assert.equal(++running, 1);
    if (m.seq === 1) await sleep(1300);
    r.say(`${m.seq} after ${c.positions().a.seq}`);
    running--;
  };
  await subscribed(c, { channels: ["a"], onMessage }, async () => conn.ackAt(await conn.expect("sub"), "e7", 0));
  const hb = setInterval(() => conn.send({ t: "hb", ts: 1 }), 10);
  t.after(() => clearInterval(hb));
  for (let i = 1; i <= 50; i++) conn.msg("a", i, i - 1);
  for (let i = 1; i <= 50; i++) await r.want(`${i} after ${i - 1}`);
  assert.equal(c.stats().connects, 1);
});

test("what a callback throws is told, and nothing stops", async (t) => {
  const s = await Fake.start(t);
  const r = new Recorder();
  const [c, conn] = await connected(t, s, r.options());
  const onMessage = (m) => {
    r.say(`a ${m.seq}`);
    if (m.seq === 1) throw new Error("no");
    if (m.seq === 2) return Promise.reject(new Error("no"));
  };
  await subscribed(c, { channels: ["a"], onMessage }, async () => conn.ackAt(await conn.expect("sub"), "e7", 0));
  for (let i = 1; i <= 3; i++) conn.msg("a", i, i - 1);
  await r.want("a 1", "error handler", "a 2", "error handler", "a 3");
  assert.equal(c.positions().a.seq, 3);
});

// More than may wait comes while a callback is busy. With npm's ws the socket is
// paused; where it can't be, a new connection goes on after what was taken in.
for (const [name, WS] of Object.entries({ ws: WebSocket, browser: BrowserLike })) {
  test(`a callback much slower than the server (${name})`, async (t) => {
    const s = await Fake.start(t);
    const r = new Recorder();
    const [c, conn] = await connected(t, s, r.options({ WebSocket: WS }));
    let last = 0;
    let go;
    const gate = new Promise((resolve) => (go = resolve));
    const onMessage = (m) => {
      assert.equal(m.prev, last);
      last = m.seq;
      if (m.seq === 1) return gate;
    };
    await subscribed(c, { channels: ["a"], onMessage }, async () => conn.ackAt(await conn.expect("sub"), "e7", 0));
    const n = 20_000;
    for (let i = 1; i <= n; i++) conn.msg("a", i, i - 1);
    // The socket without a pause has gone before the callback is done.
    if (name === "browser") await within(conn.over, "the client's giving up");
    else await sleep(300);
    go();
    if (name === "browser") {
      await r.want("error overflow");
      const next = await s.accept();
      const o = await next.expect("sub");
      assert.ok(o.since.a.seq > 8000 && o.since.a.seq < n, JSON.stringify(o.since));
      next.ackAt(o, "e7", n);
      for (let i = o.since.a.seq + 1; i <= n; i++) next.msg("a", i, i - 1);
    }
    await waitFor("the last message", () => last === n);
    assert.equal(c.stats().connects, name === "ws" ? 1 : 2);
  });
}

test("dial says what is missing", async () => {
  await assert.rejects(dial("http://x"), { code: "options" });
  if (!globalThis.WebSocket) await assert.rejects(dial("ws://x/ws"), /no WebSocket/);
});
