// The client against the real binary.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import WebSocket from "ws";
import { BrowserLike, sleep, waitFor, within } from "./fake.mjs";
import { Checker, dialReal, freePort, Ledger, scratch, Server } from "./server.mjs";

test("real", { concurrency: 4 }, async (t) => {
  const tests = {
    "deliver, and go on in another client": async (t) => {
      const s = await Server.start(t);
      const [k, l] = [new Checker(), new Ledger()];
      const first = await dialReal(t, s.url, k.options());
      await first.subscribe({ channels: ["quote.A", "trade.*"], onMessage: k.onMessage });
      await l.publish(s, 100, "quote.A", "trade.A", "trade.B.C");
      assert.equal(await k.whole(l), 0);
      const since = JSON.parse(JSON.stringify(first.positions()));
      assert.equal(since["quote.A"].seq, l.last.get("quote.A"));
      await assert.rejects(first.subscribe({ channels: ["_sys.x"], onMessage: k.onMessage }), { code: "bad_channel" });
      first.close();
      await l.publish(s, 20, "quote.A", "trade.A", "trade.new");
      const second = await dialReal(t, s.url, k.options());
      await second.subscribe({ channels: ["quote.A", "trade.*"], since, onMessage: k.onMessage });
      assert.equal(await k.whole(l), 0);
      const third = await dialReal(t, s.url, k.options());
      const snap = new Promise((resolve) => {
        third.subscribe({ channels: ["quote.A"], snapshot: true, onMessage: resolve });
      });
      assert.equal((await within(snap, "the last message")).seq, l.last.get("quote.A"));
    },

    "kill -9 and restart over the same data": async (t) => {
      let s = await Server.start(t);
      const [k, l] = [new Checker(), new Ledger()];
      const c = await dialReal(t, s.url, k.options());
      await c.subscribe({ channels: ["a", "b", "w.*"], onMessage: k.onMessage });
      for (let round = 0; round < 3; round++) {
        await l.publish(s, 50, "a", "w.x");
        await s.kill();
        s = await s.restart();
        await l.publish(s, 20, "a", "b", "w.x", `w.new${round}`);
        await waitFor("reconnect", () => c.stats().connects === round + 2);
      }
      await l.publish(s, 1, "a", "b", "w.x", "w.new0", "w.new1", "w.new2");
      // A node that has not opened its stream yet may not know the wildcard's channels.
      t.diagnostic(`${await k.whole(l)} announced in ${JSON.stringify(k.gaps)}`);
      assert.equal(c.stats().unexplained, 0, k.errors.join("\n"));
    },

    "two nodes, one dies": async (t) => {
      const nats = await freePort();
      const home = await Server.start(t, "--nats-listen", `127.0.0.1:${nats}`);
      const node = async () => Server.run(t, await freePort(), await freePort(), ["--nats-url", `nats://127.0.0.1:${nats}`, "--drain", "1s"]);
      const [a, b] = [await node(), await node()];
      const [k, l] = [new Checker(), new Ledger()];
      const c = await dialReal(t, a.url, k.options(b.url));
      await c.subscribe({ channels: ["a", "w.*"], onMessage: k.onMessage });
      let stop = false;
      const publishing = (async () => {
        for (let i = 0; !stop; i++) await l.publish(home, 1, "a", `w.${i % 10}`);
      })();
      await sleep(200);
      await a.kill();
      await waitFor("the other node", () => c.stats().connects === 2);
      await sleep(200);
      stop = true;
      await publishing;
      assert.equal(await k.whole(l), 0);
      assert.equal(c.stats().unexplained, 0);
    },

    "a drained node": async (t) => {
      const nats = await freePort();
      const home = await Server.start(t, "--nats-listen", `127.0.0.1:${nats}`);
      const a = await Server.run(t, await freePort(), await freePort(), ["--nats-url", `nats://127.0.0.1:${nats}`, "--drain", "1s"]);
      const [k, l] = [new Checker(), new Ledger()];
      const c = await dialReal(t, a.url, k.options(home.url));
      await c.subscribe({ channels: ["a"], onMessage: k.onMessage });
      await l.publish(home, 10, "a");
      await a.kill("SIGTERM");
      await l.publish(home, 10, "a");
      await waitFor("the other node", () => c.stats().connects === 2).catch(() => sleep(2000));
      await k.whole(l);
      assert.deepEqual(k.gaps, []);
      const left = k.states.find((s) => s.error?.status === 1012);
      assert.ok(left.retryIn >= 400 && left.retryIn <= 30_000 && left.url === home.url, JSON.stringify(left));
    },

    "mode latest": async (t) => {
      const s = await Server.start(t);
      const [k, l] = [new Checker(), new Ledger()];
      const c = await dialReal(t, s.url, k.options());
      await c.subscribe({ channels: ["a"], mode: "latest", every: 100, onMessage: k.onMessage });
      for (let i = 0; i < 20; i++) {
        await l.publish(s, 20, "a");
        await sleep(10);
      }
      await waitFor("the last value", () => k.last.get("a") === l.last.get("a"));
      const st = c.stats();
      assert.ok(st.messages <= 100 && st.messages + st.skipped === 400, JSON.stringify(st));
      assert.deepEqual([st.unexplained, st.gaps], [0, 0]);
    },

    "a token where none is wanted": async (t) => {
      const s = await Server.start(t);
      const [k, l] = [new Checker(), new Ledger()];
      const c = await dialReal(t, s.url, { ...k.options(), auth: "op", token: () => "x" });
      await c.subscribe({ channels: ["a"], onMessage: k.onMessage });
      await l.publish(s, 10, "a");
      assert.equal(await k.whole(l), 0);
      assert.equal(c.stats().connects, 1);
    },

    "a token where one is needed, as browsers show it": async (t) => {
      const secret = "a secret of thirty-two bytes, or more";
      const file = path.join(scratch, "secret");
      fs.writeFileSync(file, secret);
      const s = await Server.start(t, "--token-key-file", file, "--reject", "ws");
      const token = (channels) => {
        const encode = (o) => Buffer.from(JSON.stringify(o)).toString("base64url");
        const text = `${encode({ alg: "HS256" })}.${encode({ sub: "ann", channels, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
        return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
      };
      const [k, l] = [new Checker(), new Ledger()];
      const how = { WebSocket: BrowserLike, auth: "protocol" };
      await assert.rejects(dialReal(t, s.url, { ...k.options(), ...how }), { status: 4001, fatal: true });
      await assert.rejects(dialReal(t, s.url, { ...k.options(), ...how, token: () => "x.y.z" }), { status: 4001, fatal: true });
      let ended;
      const over = new Promise((resolve) => (ended = resolve));
      let [patterns, life] = [["trade.*", "book.a"], 1000];
      const c = await dialReal(t, s.url, {
        ...k.options(), ...how,
        onError: (e) => e.code === "forbidden" && e.channel === "book.a" && ended(),
        token: () => {
          const next = { value: token(patterns), expires: Date.now() + life };
          [patterns, life] = [["trade.*"], 3_600_000];
          return next;
        },
      });
      for (const name of ["trade.*", "book.a"]) await c.subscribe({ channels: [name], onMessage: k.onMessage });
      await within(over, "the end of a subscription");
      await l.publish(s, 10, "trade.a", "trade.b");
      assert.equal(await k.whole(l), 0);
      assert.equal(c.stats().connects, 1);
    },

    "a thousand channels and a wildcard over a thousand": async (t) => {
      const s = await Server.start(t, "--max-subscriptions", "3000");
      const [k, l] = [new Checker(), new Ledger()];
      const links = [];
      class Breakable extends WebSocket {
        constructor(...args) {
          super(...args);
          links.push(this);
        }
      }
      const c = await dialReal(t, s.url, { ...k.options(), WebSocket: Breakable });
      const [names, wild] = ["explicit", "wild"].map((kind) => Array.from({ length: 1000 }, (_, i) => `${kind}.INSTRUMENT-${i}`));
      await c.subscribe({ channels: names, onMessage: k.onMessage });
      await c.subscribe({ channels: ["wild.*"], onMessage: k.onMessage });
      await l.publish(s, 1, ...names, ...wild);
      assert.equal(await k.whole(l), 0);
      links[0].terminate();
      await l.publish(s, 2, ...names, ...wild);
      assert.equal(await k.whole(l), 0);
      await sleep(100); // the names that carried positions are given back
      await l.publish(s, 1, ...wild);
      assert.equal(await k.whole(l), 0);
      assert.ok(c.stats().connects >= 2, "it came back");
      assert.equal(c.stats().unexplained, 0, k.errors.join());
    },
  };
  await Promise.all(Object.entries(tests).map(([name, run]) => t.test(name, run)));
});
