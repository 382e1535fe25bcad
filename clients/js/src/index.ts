// A client for Odin: it reconnects, resumes, and tells of every gap. See
// README.md, and docs/clients.md for what it does in each case.
export { dial, type Client } from "./client.js";
export { type Subscription } from "./subscribe.js";
export { OdinError } from "./types.js";
export type {
  Gap,
  Message,
  Mode,
  Options,
  Position,
  Positions,
  State,
  Stats,
  SubscribeOptions,
  Token,
  WebSocketConstructor,
  WebSocketLike,
} from "./types.js";
