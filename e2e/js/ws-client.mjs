// Plays a subscriber with npm's ws: node ws-client.mjs URL CHANNEL COUNT
//
// It prints one JSON object a line: {"at":"subscribed"} once it is ready for
// messages, then {"at":"done",…} with what it saw, or {"at":"failed",…}. The
// test that starts it publishes in between and judges.
import WebSocket from "ws";

const [url, channel, count] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const say = (o) => console.log(JSON.stringify(o));
const fail = (why) => {
  say({ at: "failed", why: String(why) });
  process.exit(1);
};
setTimeout(() => fail("no end after 30 s"), 30_000).unref();

// dial opens a connection and turns its events into awaitable steps.
function dial(protocols) {
  // Offered always, as ws does, and used for commands of any length if accepted.
  const ws = new WebSocket(url, protocols, { perMessageDeflate: { threshold: 0 } });
  const frames = [];
  const waiting = [];
  const give = (kind, value) => {
    const next = waiting.shift();
    if (next) next({ kind, value });
    else frames.push({ kind, value });
  };
  ws.on("message", (data, binary) => give(binary ? "binary" : "text", data.toString()));
  ws.on("pong", (data) => give("pong", data.toString()));
  ws.on("close", (code) => give("close", code));
  ws.on("error", (err) => fail(err));
  const next = () => (frames.length ? Promise.resolve(frames.shift()) : new Promise((resolve) => waiting.push(resolve)));
  const expect = async (kind) => {
    const got = await next();
    if (got.kind !== kind) fail(`got ${got.kind} ${got.value}, want ${kind}`);
    return got.value;
  };
  return { ws, expect };
}

const { ws, expect } = dial(["odin.v1.json"]);
const hello = JSON.parse(await expect("text"));
if (hello.t !== "hello" || hello.v !== 1) fail(`first message is ${JSON.stringify(hello)}`);
ws.send(JSON.stringify({ op: "sub", id: 1, ch: [channel] }));
const ack = JSON.parse(await expect("text"));
if (ack.t !== "ack" || ack.id !== 1 || !ack.ch[channel]) fail(`answer to sub is ${JSON.stringify(ack)}`);
say({ at: "subscribed" });

const messages = [];
for (let last = 0; messages.length < count; ) {
  const text = await expect("text");
  const m = JSON.parse(text);
  if (m.t !== "msg" || m.ch !== channel) fail(`got ${text}`);
  if (last && m.prev !== last) fail(`seq ${m.seq} has prev ${m.prev}, the one before was ${last}`);
  last = m.seq;
  messages.push({ seq: m.seq, d: text.slice(text.indexOf(',"d":') + 5, -1) });
}

ws.ping("are you there");
const pong = await expect("pong");
ws.close(1000, "bye");
const goodbye = await expect("close");

// A connection of its own for what ends it.
const other = dial();
await other.expect("text");
other.ws.send(Buffer.from([1, 2, 3]));
const binary = await other.expect("close");

say({ at: "done", protocol: ws.protocol, extensions: ws.extensions, without: other.ws.protocol, messages, pong, goodbye, binary });
