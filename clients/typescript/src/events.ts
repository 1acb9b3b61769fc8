// Server-sent events as the gateway frames a stream: unnamed ones are messages, `error` holds a
// google.rpc.Status, `end` says that the stream is complete; comments are heartbeats.
import { ApiError, TransportError, errorOfStatus } from "./error.js";
import { Code } from "./code.js";

/** The longest event that is taken; the gateway's messages are far smaller. */
const LONGEST_EVENT = 8 * 1024 * 1024;

/** The data of each message; throws what ended the stream, unless it was complete. */
export async function* messages(
  body: ReadableStream<Uint8Array>,
  requestId?: string,
  signal?: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let buffered = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        signal?.throwIfAborted();
        throw new TransportError("the stream broke off; open it again", { cause });
      });
      if (done) throw new TransportError("the stream ended before it was complete; open it again");
      buffered += decoder.decode(value, { stream: true });
      for (let end; (end = buffered.indexOf("\n\n")) >= 0; ) {
        const { name, data } = parse(buffered.slice(0, end));
        buffered = buffered.slice(end + 2);
        if (name === "end") return;
        if (name === "error") {
          const error = errorOfStatus(JSON.parse(data), requestId);
          throw error ?? new ApiError(Code.Unknown, "", "the stream failed and did not say why");
        }
        if (data !== "") yield data;
      }
      if (buffered.length > LONGEST_EVENT) {
        throw new TransportError("an event of the stream is longer than any should be");
      }
    }
  } finally {
    // Closes the connection also when the reader has had enough.
    await reader.cancel().catch(() => undefined);
  }
}

function parse(event: string): { name: string; data: string } {
  let name = "";
  const data: string[] = [];
  for (const line of event.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return { name, data: data.join("\n") };
}
