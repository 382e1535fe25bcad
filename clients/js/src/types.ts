// What a user sees.

/** A place in a channel, or of a wildcard in the stream: the number of the last
 * message, in the stream's life that epoch names. */
export interface Position {
  epoch: string;
  seq: number;
}

/** Positions by channel and wildcard. Plain JSON. */
export type Positions = Record<string, Position>;

/** One message of a channel. */
export interface Message {
  readonly channel: string;
  /** The stream's number, the same on every node. */
  readonly seq: number;
  /** The number of the message before it on this channel. */
  readonly prev: number;
  /** How many before it were left out: mode "latest", slowLatest. */
  readonly skip: number;
  /** When the stream stored it, Unix milliseconds. */
  readonly time: number;
  /** The publisher's JSON, parsed. */
  readonly data: unknown;
  /** The publisher's JSON, its text as it was published. */
  readonly raw: string;
}

/** Messages of a channel with numbers after `after` and before `before` were not
 * delivered. The channel may be a wildcard: then it is so for those of its
 * channels that messages have not come from since.
 *
 * why is the server's evicted, epoch, slow, broker or invalid, or this client's
 * own: "unexplained" (a hole nothing explained and nothing filled) and
 * "bad_position" (the stream has lost what came before the position). */
export interface Gap {
  readonly channel: string;
  readonly after: number;
  readonly before: number;
  readonly why: string;
  readonly epoch?: string; // with why "epoch": the new one, whose number before is, if the server said so
}

export type Mode = "all" | "latest";

/** What a callback may return: a promise is waited for before the next callback. */
type Handled = void | PromiseLike<void>;

/** What to follow and who is told. */
export interface SubscribeOptions {
  /** Names, and wildcards that end in ".*". They may not overlap with each other
   * or with another subscription of the client. */
  channels: readonly string[];
  /** "latest" lets the server leave messages out: Message.skip counts them. */
  mode?: Mode;
  /** The interval of "latest" in ms; absent leaves it to the server. */
  every?: number;
  /** Lets the server treat a subscription of mode "all" as "latest" while this
   * client is too slow, instead of closing with 4101. */
  slowLatest?: boolean;
  /** Asks for the last message of each channel first, where no position is known. */
  snapshot?: boolean;
  /** Positions to go on from, of channels and of those that its wildcards match.
   * Others are ignored, so all of positions() may be given. */
  since?: Positions;
  /** Ends the wait of subscribe(), not the subscription. */
  signal?: AbortSignal;

  /** Is given each message. */
  onMessage(message: Message): Handled;
  /** Is told what was not delivered; absent: Options.onGap is. */
  onGap?(gap: Gap): Handled;
  /** Is told that the node has lost the broker, so that there may be newer
   * messages (true), or has it back and has caught up (false). */
  onStale?(channel: string, stale: boolean): Handled;
}

/** What a server with token keys wants to see. */
export interface Token {
  value: string;
  /** When it expires, a Date or Unix ms; a new one is asked for in time. */
  expires?: Date | number;
}

export interface Options {
  /** URLs of other nodes of the same gateway, tried in turn. */
  fallback?: readonly string[];
  /** Asked for a token at each connection and before the last one expires. It is
   * sent in the handshake, and a new one by the op auth; never in a URL. */
  token?: () => Token | string | PromiseLike<Token | string>;
  /** How a token is shown at connect: "protocol" as a subprotocol, all that a
   * browser can add to a handshake; "header" as Authorization, for a WebSocket whose
   * third argument has headers, as npm's ws; "op" after the greeting, for a server
   * that lets everybody in and gives more to who shows a token. Default: "header" if
   * WebSocket is given, else "protocol". */
  auth?: "protocol" | "op" | "header";
  /** The WebSocket to use, such as npm's ws. Default: the global one, which
   * browsers have, and Node.js from 22 on. */
  WebSocket?: WebSocketConstructor;
  /** Ends the wait of dial(), not the client. */
  signal?: AbortSignal;

  /** Is told of gaps of subscriptions without an onGap. */
  onGap?(gap: Gap): Handled;
  /** Is told what went wrong, whether the client deals with it or not. */
  onError?(error: OdinError): Handled;
  /** Is told when the connection comes and goes. */
  onState?(state: State): Handled;

  /** Bounds of the time before a reconnect, ms: a random part of minBackoff,
   * doubled with each failure. 500 and 30 000. What a server asks for comes on top. */
  minBackoff?: number;
  maxBackoff?: number;
  /** The largest message the server takes (its --max-message), bytes; longer
   * commands are split. 64 KiB. */
  maxMessage?: number;
  /** How often the position of wildcards is brought up to date, ms. 5 min. */
  checkpoint?: number;

  /** @internal */
  clock?: Partial<Clock>;
}

/** A change of the connection. */
export interface State {
  readonly connected: boolean;
  /** Of the node, or of the one to be tried next. */
  readonly url: string;
  /** Connected: the node's name, and this connection in its logs. */
  readonly node?: string;
  readonly conn?: string;
  /** Not connected: when it is tried again, ms; absent in the last State of all. */
  readonly retryIn?: number;
  /** Not connected: why. */
  readonly error?: OdinError;
}

/** Counters since dial(). */
export interface Stats {
  /** Given to onMessage. */
  messages: number;
  /** Left out by the server, as their messages said. */
  skipped: number;
  /** Dropped because they had been given before. */
  duplicates: number;
  /** Dropped because nobody follows their channel any more. */
  strays: number;
  /** Given to onGap. */
  gaps: number;
  /** Holes that no gap explained, and how many of them replay filled. */
  unexplained: number;
  repaired: number;
  /** Connections that were greeted. */
  connects: number;
  /** Commands that were sent again. */
  rateLimited: number;
}

/** Something that went wrong. code is the server's word (bad_channel, forbidden,
 * limit, …) or one of the client's: "closed" and "refused" (with the close code
 * or HTTP status in status), "network", "silent", "bad_frame", "unexplained",
 * "chain", "token", "overlap", "options", "overflow", "handler", "ended". */
export class OdinError extends Error {
  readonly code: string;
  readonly channel: string | undefined;
  readonly status: number | undefined;
  /** The client has ended. */
  fatal = false;

  constructor(code: string, message = "", more: { channel?: string; status?: number; cause?: unknown } = {}) {
    const what = [`odin: ${code}`];
    if (more.status) what.push(` ${more.status}`);
    if (more.channel) what.push(` ${more.channel}`);
    if (message) what.push(`: ${message}`);
    super(what.join(""), more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "OdinError";
    this.code = code;
    this.channel = more.channel;
    this.status = more.status;
  }
}

/** The part of a WebSocket that is used. pause and resume, which npm's ws has,
 * make a slow callback hold the server back. */
export interface WebSocketLike {
  binaryType: string;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols?: string[], options?: any) => WebSocketLike;

// Every time that is not the user's choice, ms; tests shorten them.
export interface Clock {
  handshake: number; // until hello
  hb: number; // the server's heartbeat: something comes after so much silence
  answer: number; // until a command is answered
  stable: number; // a connection that lasted so long was a good one
  retry: number; // until a refused name is tried again
  patience: number; // how long a position the stream hasn't reached is believed in
}
