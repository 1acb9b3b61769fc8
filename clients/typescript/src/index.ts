// What an application imports. Messages and services are in `@vpnpanel/client/gen/…`, a module
// for each proto file, so that a bundle holds only those that it uses.
export { Client, type Options, type SignedIn, type SignIn } from "./client.js";
export { ApiError, TransportError, type FieldViolation } from "./error.js";
export { newRequestId, retrying } from "./retry.js";
export { Code } from "./code.js";
