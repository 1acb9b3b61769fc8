// The tokens of a client: given once, or got by signing in and renewed before they end. However
// many calls run at once, one of them renews and the others wait for it.
import type { Duration } from "@bufbuild/protobuf/wkt";

/** What a sign-in, a change of password and a renewal answer. */
export interface Tokens {
  readonly accessToken: string;
  readonly refreshToken: string;
  readonly expiresIn?: Duration | undefined;
}

/** An access token is renewed when this share of its life is left. */
const RENEW_AT = 0.2;

export class Session {
  #access: string | undefined;
  #refresh: string | undefined;
  #renewAt = Infinity;
  #renewal: Promise<void> | undefined;

  /** Asks the control plane for the next tokens. */
  constructor(private readonly renew: (refreshToken: string) => Promise<Tokens>) {}

  /** The access token of the next call. */
  async token(): Promise<string | undefined> {
    const refresh = this.#refresh;
    if (refresh !== undefined && performance.now() >= this.#renewAt) {
      this.#renewal ??= this.#renewed(refresh).finally(() => {
        this.#renewal = undefined;
      });
      await this.#renewal;
    }
    return this.#access;
  }

  /** Notes that the service did not accept a token: the next call renews it first. */
  refused(token: string | undefined): void {
    if (token === this.#access) this.#renewAt = 0;
  }

  setFixed(token: string): void {
    this.#access = token;
    this.#refresh = undefined;
  }

  setSignedIn(tokens: Tokens): void {
    const life = tokens.expiresIn;
    const lifeMs = life ? Number(life.seconds) * 1000 + life.nanos / 1e6 : 0;
    this.#access = tokens.accessToken;
    this.#refresh = tokens.refreshToken;
    this.#renewAt = performance.now() + lifeMs * (1 - RENEW_AT);
  }

  clear(): void {
    this.#access = undefined;
    this.#refresh = undefined;
  }

  async #renewed(refresh: string): Promise<void> {
    const tokens = await this.renew(refresh);
    // Somebody may have signed in anew, or out, meanwhile.
    if (this.#refresh === refresh) this.setSignedIn(tokens);
  }
}
