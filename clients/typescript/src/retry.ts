// Retries that do nothing twice: a request that creates something carries an id of its caller,
// and a repetition of it is answered with the first one's result.
import { Code } from "./code.js";
import { ApiError, TransportError } from "./error.js";

/** Pause before the first repetition; it doubles up to the longest. */
const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/** An id for the `requestId` of a request. Make it once, outside of the retries. */
export function newRequestId(): string {
  // Not crypto.randomUUID: a panel on plain HTTP is no secure context.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Calls up to `attempts` times while the control plane is unavailable, and as late as it asks.
 * Only for calls that change nothing, or that carry a `requestId`.
 */
export async function retrying<T>(attempts: number, call: () => Promise<T>): Promise<T> {
  let pause = FIRST_MS;
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (attempt >= attempts || !isPassing(error)) throw error;
      const asked = error instanceof ApiError ? error.retryAfterMs : undefined;
      await new Promise((resolve) => setTimeout(resolve, asked ?? pause));
      pause = Math.min(pause * 2, LONGEST_MS);
    }
  }
}

function isPassing(error: unknown): boolean {
  if (error instanceof TransportError) return true;
  if (!(error instanceof ApiError)) return false;
  const asked = error.code === Code.ResourceExhausted && error.retryAfterMs !== undefined;
  return error.code === Code.Unavailable || asked;
}
