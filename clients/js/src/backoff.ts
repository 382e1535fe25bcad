// What becomes of a client whose connection ended.
export type Fate =
  | "lost" // come back, at the next node
  | "atOnce" // come back now, at the same node
  | "busy" // come back, but not soon
  | "drained" // come back when the server said
  | "reauth" // come back only with another token
  | "stop"; // don't come back

// closeFate is the protocol's table of close codes.
export function closeFate(code: number): Fate {
  switch (code) {
    case 1000:
    case 1001:
    case 1005:
    case 1006:
      return "lost";
    case 1002:
    case 1003:
    case 1007:
    case 1008:
    case 1009:
    case 4003:
      return "stop";
    case 1012:
      return "drained";
    case 4001:
      return "reauth";
    case 4201:
      return "atOnce";
  }
  return "busy"; // 1011, 1013, 4101, 4102, and what is not known
}

// movesOn reports whether the next node is tried: this one has gone, is full or
// is going. Who was too slow or too fast would be so there too.
export function movesOn(code: number): boolean {
  return code !== 4101 && code !== 4102 && code !== 4201 && code !== 4001;
}

// statusFate is the same for HTTP statuses that refuse a handshake, where they
// can be seen. A client that was never let in takes any complaint as final.
export function statusFate(status: number, greeted: boolean): Fate {
  if (status === 401) return "reauth";
  if (status === 403) return "stop";
  if (status >= 400 && status < 500 && status !== 408 && status !== 429 && !greeted) return "stop";
  return "busy";
}

export function refusesToken(status: number | undefined): boolean {
  return status === 401 || status === 4001;
}

// Counts failures in a row.
export class Backoff {
  failures = 0;

  constructor(
    private readonly min: number,
    private readonly max: number,
  ) {}

  // next is how long to wait, and at least what the server asked for. "lost" is
  // full jitter, a random part of min·2ⁿ; "busy" is the upper half of it and at
  // least a second.
  next(fate: Fate, asked: number): number {
    if (fate === "drained" && asked > 0) return asked; // the server has spread them
    if (fate === "atOnce" && this.failures === 0) {
      this.failures++;
      return asked;
    }
    const most = Math.min(this.max, this.min * 2 ** Math.min(this.failures, 20));
    this.failures++;
    let d = Math.random() * most;
    if (fate === "busy" || fate === "drained") {
      d = Math.max(Math.min(1000, this.max) + d / 4, most / 2 + d / 2);
    }
    return Math.max(d, asked);
  }
}
