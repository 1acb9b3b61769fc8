// The client: any method of the contract by its descriptor, over REST with fetch, so that the
// same code runs in a browser and in Node. Names no service but that of sign-ins.
import {
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
  create,
  fromJson,
  fromJsonString,
} from "@bufbuild/protobuf";
import { AuthService } from "../gen/vpnpanel/auth/v1/auth_pb.js";
import { type RestCall, restCall } from "./binding.js";
import { Code } from "./code.js";
import { ApiError, TransportError, errorOf } from "./error.js";
import { messages } from "./events.js";
import { Session } from "./session.js";

export interface Options {
  /** Sends the requests; `globalThis.fetch` unless given. */
  readonly fetch?: typeof fetch;
  /** Deadline of a call that is no stream, 30 s unless set. */
  readonly timeoutMs?: number;
}

export interface SignIn {
  readonly email: string;
  readonly password: string;
  /** The code of the account's second factor, where it has one (reason `TOTP_REQUIRED`). */
  readonly totpCode?: string;
  /** One of the account's recovery codes, instead of `totpCode`. */
  readonly recoveryCode?: string;
}

/** What a sign-in says beside the tokens, which stay inside the client. */
export interface SignedIn {
  /** Nothing else is permitted before `changePassword`. */
  readonly passwordChangeRequired: boolean;
  /** Nothing else is permitted before a second factor is enrolled. */
  readonly secondFactorRequired: boolean;
}

/** A response that comes in pages. */
interface Page {
  readonly nextPageToken: string;
}

const AUTH = AuthService.method;

/** A control plane, and a session at it. */
export class Client {
  readonly #address: string;
  readonly #fetch: typeof fetch;
  readonly #timeoutMs: number;
  readonly #session: Session;

  /** `address` is the gateway's, such as `https://panel.example.com`; empty is the page's own. */
  constructor(address: string, options: Options = {}) {
    this.#address = address.replace(/\/+$/, "");
    // Called through globalThis: a browser's fetch refuses another `this`.
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.#timeoutMs = options.timeoutMs ?? 30_000;
    this.#session = new Session((refreshToken) =>
      this.#unary(AUTH.refresh, { refreshToken }, undefined),
    );
  }

  /** Signs in. From then on each call carries an access token, which is renewed in time. */
  async signIn(signIn: SignIn): Promise<SignedIn> {
    const login = await this.#unary(AUTH.login, { ...signIn }, undefined);
    this.#session.setSignedIn(login);
    const { passwordChangeRequired, secondFactorRequired } = login;
    return { passwordChangeRequired, secondFactorRequired };
  }

  /** Changes the password of the account; this session goes on, its others end. */
  async changePassword(currentPassword: string, newPassword: string): Promise<void> {
    const changed = await this.call(AUTH.changePassword, { currentPassword, newPassword });
    this.#session.setSignedIn(changed);
  }

  /** Puts a token that was got elsewhere, such as an API token, on each call. */
  useToken(token: string): void {
    this.#session.setFixed(token);
  }

  /** Ends the session, here and at the control plane; here also when that could not be told. */
  async signOut(): Promise<void> {
    try {
      await this.call(AUTH.logout, {});
    } finally {
      this.#session.clear();
    }
  }

  /** Calls a method: `client.call(UserService.method.getUser, { tenantId, userId })`. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    signal?: AbortSignal,
  ): Promise<MessageShape<O>> {
    return this.#authorized((token) => this.#unary(method, request, token, signal));
  }

  /** The responses of a streaming method; ends when the stream is complete. */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    signal?: AbortSignal,
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const call = restCall(method, create(method.input, request));
    const response = await this.#authorized((token) =>
      this.#send(call, "text/event-stream", token, signal),
    );
    if (!response.body) throw new TransportError("the answer to a stream has no body");
    const requestId = response.headers.get("x-request-id") ?? undefined;
    for await (const data of messages(response.body, requestId, signal)) {
      yield fromJsonString(method.output, data, LENIENT);
    }
  }

  /** The pages of a list, from the one that the request names. */
  async *pages<I extends DescMessage, O extends DescMessage>(
    method: MessageShape<O> extends Page ? DescMethodUnary<I, O> : never,
    request: MessageInitShape<I>,
    signal?: AbortSignal,
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const list: DescMethodUnary<I, O> = method;
    let next: MessageInitShape<I> = request;
    for (;;) {
      const page = await this.call(list, next, signal);
      yield page;
      const { nextPageToken: pageToken } = page as unknown as Page;
      if (pageToken === "") return;
      next = { ...next, pageToken };
    }
  }

  /** A token that the service no longer accepts fails one call; the next renews it first. */
  async #authorized<T>(call: (token: string | undefined) => Promise<T>): Promise<T> {
    const token = await this.#session.token();
    try {
      return await call(token);
    } catch (error) {
      if (error instanceof ApiError && error.code === Code.Unauthenticated) {
        this.#session.refused(token);
      }
      throw error;
    }
  }

  async #unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    token: string | undefined,
    signal?: AbortSignal,
  ): Promise<MessageShape<O>> {
    const call = restCall(method, create(method.input, request));
    const deadline = AbortSignal.timeout(this.#timeoutMs);
    const both = signal ? AbortSignal.any([signal, deadline]) : deadline;
    const response = await this.#send(call, "application/json", token, both);
    let json: JsonValue;
    try {
      json = (await response.json()) as JsonValue;
    } catch (cause) {
      signal?.throwIfAborted();
      throw new TransportError("the answer broke off or is no JSON", { cause });
    }
    const whole = call.responseField === "" ? json : { [call.responseField]: json };
    return fromJson(method.output, whole, LENIENT);
  }

  async #send(
    call: RestCall,
    accept: string,
    token: string | undefined,
    signal?: AbortSignal,
  ): Promise<Response> {
    const headers: Record<string, string> = { accept };
    if (token !== undefined) headers.authorization = `Bearer ${token}`;
    if (call.body !== undefined) headers["content-type"] = "application/json";
    let response: Response;
    try {
      response = await this.#fetch(this.#address + call.path, {
        method: call.method,
        headers,
        body: call.body ?? null,
        signal: signal ?? null,
        // No cookie authenticates, and a token goes nowhere else.
        credentials: "omit",
        redirect: "error",
      });
    } catch (cause) {
      if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw cause;
      throw new TransportError("the control plane did not answer", { cause });
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

/** Fields that a newer control plane has are no error. */
const LENIENT = { ignoreUnknownFields: true };
