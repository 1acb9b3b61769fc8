// Errors to decide by: the reason of the ErrorInfo that every error of the API carries, the
// fields that are wrong, and when to come again.
import { Code } from "./code.js";

/** A field of the request that is wrong. */
export interface FieldViolation {
  /** Path of the field: `user.data_limit_bytes`. */
  readonly field: string;
  readonly description: string;
}

/** The API refused, or failed at, a call. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  constructor(
    readonly code: Code,
    /** What happened, for programs: `USER_NOT_FOUND`. Empty when no service answered. */
    readonly reason: string,
    message: string,
    readonly metadata: Readonly<Record<string, string>> = {},
    readonly fields: readonly FieldViolation[] = [],
    /** When a retry makes sense, in milliseconds, if the service says so. */
    readonly retryAfterMs?: number,
    /** What the logs of the control plane know the call by. */
    readonly requestId?: string,
  ) {
    super(message);
  }
}

/** No answer came: the control plane cannot be reached, or it took too long. */
export class TransportError extends Error {
  override readonly name = "TransportError";
}

/** Makes the error of an answer that is not one of success. */
export async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch((cause: unknown) => {
    throw new TransportError("the answer broke off", { cause });
  });
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy answered, in words of its own.
  }
  const error = errorOfStatus(body, response.headers.get("x-request-id") ?? undefined);
  if (error) return error;
  const code = BY_HTTP[response.status] ?? Code.Unknown;
  return new ApiError(
    code,
    "",
    `the answer was HTTP ${response.status}, not one of vpnpanel's; check the address`,
    {},
    [],
    secondsToMs(response.headers.get("retry-after")),
    response.headers.get("x-request-id") ?? undefined,
  );
}

/** Makes the error of a google.rpc.Status in JSON; undefined where it is none. */
export function errorOfStatus(body: unknown, requestId?: string): ApiError | undefined {
  if (!isRecord(body) || typeof body.code !== "number") return undefined;
  let reason = "";
  let metadata: Record<string, string> = {};
  const fields: FieldViolation[] = [];
  let retryAfterMs: number | undefined;
  for (const detail of Array.isArray(body.details) ? body.details : []) {
    if (!isRecord(detail)) continue;
    switch (String(detail["@type"]).split("/").pop()) {
      case "google.rpc.ErrorInfo":
        reason = text(detail.reason);
        if (isRecord(detail.metadata)) {
          metadata = Object.fromEntries(Object.entries(detail.metadata).map(([k, v]) => [k, text(v)]));
        }
        break;
      case "google.rpc.BadRequest":
        for (const each of Array.isArray(detail.fieldViolations) ? detail.fieldViolations : []) {
          if (isRecord(each)) {
            fields.push({ field: text(each.field), description: text(each.description) });
          }
        }
        break;
      case "google.rpc.RetryInfo":
        retryAfterMs = secondsToMs(text(detail.retryDelay).replace(/s$/, ""));
        break;
    }
  }
  return new ApiError(body.code, reason, text(body.message), metadata, fields, retryAfterMs, requestId);
}

const BY_HTTP: Readonly<Record<number, Code>> = {
  400: Code.InvalidArgument,
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  404: Code.NotFound,
  429: Code.ResourceExhausted,
  502: Code.Unavailable,
  503: Code.Unavailable,
  504: Code.DeadlineExceeded,
};

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function secondsToMs(seconds: string | null): number | undefined {
  if (!seconds) return undefined;
  const ms = Number(seconds) * 1000;
  return Number.isFinite(ms) && ms >= 0 ? ms : undefined;
}
