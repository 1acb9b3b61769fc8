// The REST call of a method, read from the google.api.http option in its descriptor: no path is
// written by hand, and a bundle holds the bindings of the services that it uses.
import {
  type DescMessage,
  type DescMethod,
  type JsonObject,
  type JsonValue,
  type MessageShape,
  getOption,
  hasOption,
  toJson,
} from "@bufbuild/protobuf";
import { http } from "../gen/google/api/annotations_pb.js";
import type { HttpRule } from "../gen/google/api/http_pb.js";

/** An HTTP request, without address and credentials. */
export interface RestCall {
  readonly method: string;
  readonly path: string;
  readonly body?: string;
  /** The field of the response that is the whole body of the answer; empty for all of it. */
  readonly responseField: string;
}

/** Makes the REST call of `method` with `request`; throws a TypeError where there is none. */
export function restCall<I extends DescMessage>(
  method: DescMethod & { input: I },
  request: MessageShape<I>,
): RestCall {
  const name = `${method.parent.typeName}.${method.name}`;
  if (!hasOption(method, http)) throw new TypeError(`${name} is served over gRPC only`);
  if ([method.output, ...method.output.fields.map((f) => f.message)].some(isHttpBody)) {
    throw new TypeError(`${name} answers with a file, not a message: fetch it by its URL`);
  }
  const json = toJson(method.input, request) as JsonObject;
  const first = getOption(method, http);
  // The binding with the most of its variables given: a tenant's where a tenant is named.
  const fitting = [first, ...first.additionalBindings]
    .map((rule) => ({ rule, variables: variablesOf(method, rule) }))
    .filter(({ variables }) => variables.every((path) => value(json, path)))
    .sort((a, b) => b.variables.length - a.variables.length)[0];
  if (!fitting) {
    throw new TypeError(`${name} needs ${variablesOf(method, first).map((path) => path.join(".")).join(" and ")}`);
  }
  const { rule, variables } = fitting;
  let path = template(rule).replace(VARIABLE, (_, variable: string) =>
    encodeURIComponent(String(value(json, jsonPath(method.input, variable)))),
  );
  const rest = structuredClone(json);
  for (const variable of variables) {
    const holder = variable.length > 1 ? value(rest, variable.slice(0, -1)) : rest;
    delete (holder as JsonObject)[variable.at(-1)!];
  }
  let body: string | undefined;
  if (rule.body === "*") {
    body = JSON.stringify(rest);
  } else {
    if (rule.body !== "") {
      const field = jsonName(method.input, rule.body);
      body = JSON.stringify(rest[field] ?? {});
      delete rest[field];
    }
    const query = new URLSearchParams();
    for (const [field, value] of Object.entries(rest)) append(query, field, value);
    if (query.size > 0) path += `?${query}`;
  }
  const call = {
    method: (rule.pattern.case ?? "post").toUpperCase(),
    path,
    responseField: rule.responseBody && jsonName(method.output, rule.responseBody),
  };
  return body === undefined ? call : { ...call, body };
}

const VARIABLE = /\{([a-z0-9_.]+)\}/g;

function isHttpBody(message: DescMessage | undefined): boolean {
  return message?.typeName === "google.api.HttpBody";
}

function template(rule: HttpRule): string {
  return rule.pattern.value ?? "";
}

function variablesOf(method: DescMethod, rule: HttpRule): string[][] {
  return Array.from(template(rule).matchAll(VARIABLE), ([, variable]) =>
    jsonPath(method.input, variable!),
  );
}

/** `user.tenant_id` as the names that JSON has for it. */
function jsonPath(message: DescMessage, variable: string): string[] {
  const [field, ...further] = variable.split(".");
  const found = message.fields.find((each) => each.name === field);
  const name = jsonName(message, field!);
  return further.length > 0 && found?.message
    ? [name, ...jsonPath(found.message, further.join("."))]
    : [name];
}

function value(json: JsonObject, path: readonly string[]): JsonValue | undefined {
  let at: JsonValue | undefined = json;
  for (const name of path) at = (at as JsonObject | undefined)?.[name];
  return at;
}

function jsonName(message: DescMessage, field: string): string {
  const found = message.fields.find((each) => each.name === field);
  if (!found) throw new TypeError(`${message.typeName} has no field ${field}`);
  return found.jsonName;
}

function append(query: URLSearchParams, name: string, value: JsonValue | undefined): void {
  if (Array.isArray(value)) {
    for (const each of value) append(query, name, each);
  } else if (typeof value === "object" && value !== null) {
    for (const [field, each] of Object.entries(value)) append(query, `${name}.${field}`, each);
  } else if (value !== null && value !== undefined) {
    query.append(name, String(value));
  }
}
