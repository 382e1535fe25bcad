import assert from "node:assert/strict";
import { test } from "node:test";
import { maxHeld } from "../dist/chain.js";
import { following } from "./fake.mjs";

// holed is a client at a 101 that has been sent 105 after 103.
async function holed(t) {
  const f = await following(t, "a", "b");
  f.conn.msg("a", 101, 100);
  f.conn.msg("a", 105, 103);
  f.conn.msg("b", 106, 100);
  await f.r.want("a 101", "error unexplained", "b 106");
  const { op, ch, epoch, from, to, id } = await f.conn.expect("replay");
  assert.deepEqual({ op, ch, epoch, from, to }, { op: "replay", ch: "a", epoch: "e7", from: 102, to: 103 });
  return { ...f, o: { id } };
}

test("a hole is filled by replay, and what is live waits", async (t) => {
  const { c, conn, r, o } = await holed(t);
  conn.msg("a", 107, 105);
  conn.gap("a", 107, 110, "broker");
  conn.msg("a", 110, 109);
  await r.nothing();
  assert.equal(c.positions().a.seq, 101);
  conn.msg("a", 101, 100);
  conn.msg("a", 102, 101);
  conn.msg("a", 103, 102);
  conn.ack(o);
  await r.want("a 102", "a 103", "a 105", "a 107", "gap a 107 110 broker", "a 110");
  assert.deepEqual([c.stats().unexplained, c.stats().repaired], [1, 1]);
});

test("what the replay can't have, it says", async (t) => {
  const { conn, r, o } = await holed(t);
  conn.gap("a", 101, 103, "evicted");
  conn.msg("a", 103, 102);
  conn.ack(o);
  await r.want("gap a 101 103 evicted", "a 103", "a 105");
});

test("two holes, one behind the other", async (t) => {
  const { conn, r, o } = await holed(t);
  conn.msg("a", 120, 110);
  conn.msg("a", 121, 120);
  conn.msg("a", 103, 101);
  conn.ack(o);
  await r.want("a 103", "a 105", "error unexplained");
  const again = await conn.expect("replay");
  assert.deepEqual([again.from, again.to], [106, 110]);
  conn.msg("a", 110, 105);
  conn.ack(again);
  await r.want("a 110", "a 120", "a 121");
});

const useless = {
  refused: (conn, o) => conn.err(o, "unrecoverable"),
  empty: (conn, o) => conn.ack(o),
  holed: (conn, o) => {
    conn.msg("a", 103, 102);
    conn.ack(o);
  },
  overflow: (conn) => {
    for (let i = 0; i <= maxHeld; i++) conn.msg("a", 200 + i, 199 + i);
  },
};
for (const [name, answer] of Object.entries(useless)) {
  test(`where replay is ${name}, a new connection resumes before the hole`, async (t) => {
    const { s, c, conn, r, o } = await holed(t);
    answer(conn, o);
    const next = await s.accept();
    const sub = await next.expect("sub");
    assert.deepEqual([sub.since.a.seq, sub.since.b.seq], [101, 106]);
    next.ackAt(sub, "e7", 106);
    next.msg("a", 102, 101);
    next.msg("a", 103, 102);
    next.msg("a", 105, 103);
    await r.want("error unexplained", "a 102", "a 103", "a 105");
    assert.equal(c.stats().gaps, 0);
  });
}

test("a hole that neither fills is told", async (t) => {
  const { s, c, conn, r, o } = await holed(t);
  conn.err(o, "unrecoverable");
  const next = await s.accept();
  next.ackAt(await next.expect("sub"), "e7", 105);
  next.msg("a", 105, 103);
  next.msg("a", 106, 105);
  next.err(await next.expect("replay"), "unrecoverable");
  await r.want("error unexplained", "error unexplained", "gap a 101 105 unexplained", "a 105", "a 106");
  assert.equal(s.headers.length, 2);
  assert.equal(c.positions().a.seq, 106);
});

test("a prev lower than the last message is an error and no hole", async (t) => {
  const { conn, r } = await following(t, "a");
  conn.msg("a", 105, 100);
  conn.msg("a", 106, 103);
  await r.want("a 105", "error chain", "a 106");
});
