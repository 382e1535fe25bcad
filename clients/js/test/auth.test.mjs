import assert from "node:assert/strict";
import { test } from "node:test";
import { dial } from "../dist/index.js";
import { BrowserLike, connected, Fake, Recorder, subscribed, within } from "./fake.mjs";

// tokens hands out t1, t2, … that live so long.
function tokens(life) {
  let n = 0;
  return () => (life ? { value: `t${++n}`, expires: Date.now() + life } : `t${++n}`);
}

test("npm's ws shows the token in the header and refreshes it by op", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [, conn] = await connected(t, s, r.options({ token: tokens(500) }));
  assert.equal(s.headers[0].authorization, "Bearer t1");
  let o = await conn.expect("auth");
  assert.equal(o.token, "t2");
  conn.ack(o);
  o = await conn.expect("auth");
  conn.err(o, "unauthorized");
  await r.want("error unauthorized", "error unauthorized 4001");
  await s.accept();
});

test("a browser shows it by op, before anything else", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, s, r.options({ WebSocket: BrowserLike, auth: "op", token: async () => "secret" }));
  assert.equal(s.headers[0].authorization, undefined);
  await subscribed(c, r.follow("a"), async () => {
    const o = await conn.expect("auth");
    assert.equal(o.token, "secret");
    conn.err(o, "bad_request", { message: "no token keys are configured; anyone may read" });
    conn.ackAt(await conn.expect("sub"), "e7", 1);
  });
  await r.want("error bad_request");
});

test("a browser shows it as a subprotocol, and refreshes it by op", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [, conn] = await connected(t, s, r.options({ WebSocket: BrowserLike, auth: "protocol", token: tokens(500) }));
  assert.equal(s.headers[0].authorization, undefined);
  assert.match(s.headers[0]["sec-websocket-protocol"], /^odin\.v1\.json, ?odin\.token\.t1$/);
  assert.equal((await conn.expect("auth")).token, "t2");
});

test("a token that is no subprotocol goes by op", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [, conn] = await connected(t, s, r.options({ WebSocket: BrowserLike, auth: "protocol", token: () => "a b,c" }));
  assert.equal(s.headers[0]["sec-websocket-protocol"], "odin.v1.json");
  assert.equal((await conn.expect("auth")).token, "a b,c");
});

test("what a new token does not allow ends", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  const [c, conn] = await connected(t, s, r.options({ onError: (e) => r.say(`error ${e.code} ${e.channel}`) }));
  await subscribed(c, r.follow("a"), async () => conn.ackAt(await conn.expect("sub"), "e7", 1));
  conn.send({ t: "err", code: "forbidden", ch: "a" });
  await r.want("error forbidden a");
  conn.ws.close(1012); // the next connection tries it again
  const next = await s.accept();
  await next.expect("sub");
});

test("a refused token is not shown twice; another one is tried", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  let token = "old";
  const [c, conn] = await connected(t, s, r.options({ token: () => token }));
  token = "new";
  conn.ws.close(4001);
  const next = await s.accept();
  assert.equal(s.headers[1].authorization, "Bearer new");
  next.ws.close(4001);
  await r.want("error closed 4001", "error closed 4001", "fatal closed 4001");
  await within(c.done, "its end");
  assert.equal(s.headers.length, 2);
});

test("new tokens that are all refused end it", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  s.refuse = () => ({ status: 401 });
  await assert.rejects(dial(s.url, r.options({ token: tokens(0) })), { status: 401, fatal: true });
  assert.equal(s.headers.length, 4);
});

test("a token that can't be had is asked for again", async (t) => {
  const [s, r] = [await Fake.start(t), new Recorder()];
  let n = 0;
  const token = () => {
    if (++n < 3) throw new Error("not now");
    return "x";
  };
  await connected(t, s, r.options({ token }));
  await r.want("error token", "error token");
});
