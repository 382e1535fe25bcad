import { dial, OdinError, type Client, type State } from "@odin-ws/client";
import { askKey, keptKey } from "./key.js";
import type { Stats } from "./stats.js";

const channel = "_sys.stats";

export interface Handlers {
  onStats(s: Stats, at: number): void;
  onState(s: State): void;
  /** What comes next is of another process. */
  onRestart(): void;
  /** The client has ended for good. */
  onEnd(why: string): void;
}

/** Follows the gateway's figures, over reconnects, for as long as the page lives. */
export async function follow(h: Handlers, usesKey: (key: string) => void): Promise<void> {
  const url = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws`;
  for (let key = keptKey(); ; ) {
    usesKey(key);
    const why = await once(url, key, h);
    if (why?.code !== "unauthorized" && why?.status !== 4001) {
      h.onEnd(why?.message ?? "the connection was closed");
      return;
    }
    key = await askKey(key !== "");
  }
}

// once follows until the client ends, and says why.
async function once(url: string, key: string, h: Handlers): Promise<OdinError | null> {
  let client: Client;
  try {
    client = await dial(url, {
      auth: "op", // after the greeting: a refused handshake would not say why
      ...(key && { token: () => key }),
      minBackoff: 300, maxBackoff: 5000,
      onState: (s) => h.onState(s),
    });
  } catch (err) {
    return err as OdinError;
  }
  try {
    await client.subscribe({
      channels: [channel],
      snapshot: true,
      onMessage: (m) => h.onStats(m.data as Stats, m.time),
      onGap(g) {
        if (g.why === "epoch") h.onRestart(); // of others the next message says all there is to know
      },
    });
  } catch (err) {
    client.close();
    return err as OdinError;
  }
  await client.done;
  return client.error;
}
