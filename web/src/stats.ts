// What a message of _sys.stats says, as far as the page looks at it. All that another
// version of the gateway may not have is optional.

export interface Histogram {
  count: number;
  p50Ms: number;
  p90Ms: number;
  p99Ms: number;
  maxMs: number;
  /** le in seconds, null for the last; n of this bucket alone. */
  buckets: { le: number | null; n: number }[];
}

export interface Term {
  name: string;
  what: string;
  bytes: number;
  budget?: number;
  per?: string;
}

export interface Capacity {
  max: number;
  bound: string;
  by_memory: number;
  by_descriptors: number;
  configured: number;
  limit: { bytes: number; source: string };
  profile: string;
  bytes_per_connection: number;
  overhead: number;
  terms: Term[];
}

export interface Refusal {
  ts: number;
  what: string;
  why?: string;
  from?: string;
  n: number;
}

export type Counts = Record<string, number>;

export interface Stats {
  currentConnections: number;
  maxConnections: number;
  node: string;
  version?: string;
  uptimeSeconds: number;
  goroutines: number;
  shards: number;
  handshakes: number;
  admitted: number;
  waiting: number;
  rejected: Counts;
  closes: Counts;
  acceptRefused: number;
  subscriptions: number;
  channels: number;
  bytesIn: number;
  bytesOut: number;
  messagesIn: number;
  messagesOut: number;
  gaps: Counts;
  slow: Counts;
  skippedMessages: number;
  heldBack: number;
  rateLimitedMessages: number;
  messageReplayRequests: number;
  pressure: string;
  memoryUsedBytes?: number;
  memoryLimitBytes?: number;
  backlogBytes: number;
  memory: { account: string; source?: string; terms: Term[] };
  broker: {
    connected: boolean;
    epoch: string;
    head: number;
    error?: string;
    delivered: number;
    refetched: number;
    lost: number;
    overflows: number;
    reconnects: number;
  };
  compression?: { connections: number; messages: number; bytesBefore: number; bytesAfter: number };
  tls?: { handshaking?: number };
  statsFeed?: { connections: number };
  capacity?: Capacity;
  delivery?: Histogram;
  loopLag?: Histogram;

  notReady?: string;
  notReadyDetail?: string;
  recent?: { refusals: Refusal[] };
  topChannels?: { ch: string; in: number; members: number }[];
  settings?: { sendQueue: number; slowTimeoutMs: number; maxChannels: number };
}

/** One connection of /connz. */
export interface Conn {
  conn: string;
  addr: string;
  age_s: number;
  lag: number;
  strikes: number;
  blocked: boolean;
  held: boolean;
  conflated: boolean;
  catching_up: boolean;
  unacked_bytes: number;
  taken_s: number;
}
