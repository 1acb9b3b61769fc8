// The client against a control plane of this build.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ApiError, Client, Code, TransportError, newRequestId, retrying } from "@vpnpanel/client";
import { AuthService } from "@vpnpanel/client/gen/vpnpanel/auth/v1/auth";
import { NodeService } from "@vpnpanel/client/gen/vpnpanel/node/v1/node";
import { SubscriptionService } from "@vpnpanel/client/gen/vpnpanel/subscription/v1/subscription";
import { TenantService } from "@vpnpanel/client/gen/vpnpanel/tenant/v1/tenant";
import { UserService } from "@vpnpanel/client/gen/vpnpanel/user/v1/user";
import { build } from "esbuild";
import { EMAIL, PASSWORD, start } from "./control-plane.mjs";

const FOLDER = fileURLToPath(new URL("..", import.meta.url));
const users = UserService.method;
let control;
// Of all tests but those of sign-ins, which are limited for an account.
let shared;

before(async () => {
  control = await start(Client);
  shared = await signedIn();
});
after(() => control?.stop());

async function signedIn(options) {
  const client = new Client(control.address, options);
  await client.signIn({ email: EMAIL, password: PASSWORD });
  const { tenants } = await client.call(TenantService.method.listTenants, {});
  return { client, tenantId: tenants[0].id };
}

/** The code of a second factor (RFC 6238), so many steps from now. */
function totp(secret, steps) {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = Array.from(secret, (c) => alphabet.indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const digest = createHmac("sha1", key).update(counter).digest();
  const number = digest.readUInt32BE(digest.at(-1) & 15) & 0x7fffffff;
  return String(number % 1_000_000).padStart(6, "0");
}

function refused(code, reason) {
  return (error) => {
    assert.ok(error instanceof ApiError, String(error));
    assert.equal(error.code, code);
    if (reason) assert.equal(error.reason, reason);
    return true;
  };
}

test("a one-time password asks for another", () => {
  assert.equal(control.signedIn.passwordChangeRequired, true);
});

test("a sign-in authorizes calls and a sign-out ends that", async () => {
  const { client } = await signedIn();
  const me = await client.call(AuthService.method.getMe, {});
  assert.equal(me.account.email, EMAIL);
  await client.signOut();
  await assert.rejects(client.call(AuthService.method.getMe, {}), refused(Code.Unauthenticated));
});

test("a second factor is asked for, and its code signs in", async () => {
  const { client } = shared;
  const { secret } = await client.call(AuthService.method.enrollTotp, { password: PASSWORD });
  // Each code works once; the next step's is accepted already.
  const first = totp(secret, 0);
  const { recoveryCodes } = await client.call(AuthService.method.confirmTotp, { totpCode: first });
  try {
    const account = { email: EMAIL, password: PASSWORD };
    const another = new Client(control.address);
    await assert.rejects(another.signIn(account), refused(Code.Unauthenticated, "TOTP_REQUIRED"));
    await another.signIn({ ...account, totpCode: totp(secret, 1) });
    await another.call(AuthService.method.getMe, {});
  } finally {
    const disable = { password: PASSWORD, recoveryCode: recoveryCodes[0] };
    await client.call(AuthService.method.disableTotp, disable);
  }
});

test("an API token authorizes what it permits", async () => {
  const { client, tenantId } = shared;
  const { token } = await client.call(AuthService.method.createApiToken, {
    apiToken: { name: "reader", tenantId, permissions: ["user.read"] },
  });
  const reader = new Client(control.address);
  reader.useToken(token);
  await reader.call(users.listUsers, { tenantId });
  const made = reader.call(users.createUser, { tenantId, user: { username: "not-made" } });
  await assert.rejects(made, refused(Code.PermissionDenied));
});

test("a wrong password is told by its reason, with a request id", async () => {
  const client = new Client(control.address);
  const wrong = client.signIn({ email: EMAIL, password: "wrong" });
  await assert.rejects(wrong, (error) => {
    assert.ok(error.requestId);
    return refused(Code.Unauthenticated, "SIGN_IN_REFUSED")(error);
  });
});

test("a field that is wrong is named", async () => {
  const { client, tenantId } = shared;
  const long = client.call(users.createUser, { tenantId, user: { username: "x".repeat(500) } });
  await assert.rejects(long, (error) => {
    assert.equal(error.fields[0].field, "user.username");
    return refused(Code.InvalidArgument)(error);
  });
});

test("a repeated request makes no second user", async () => {
  const { client, tenantId } = shared;
  const dataLimitBytes = 1_125_899_906_842_623n;
  const request = { tenantId, user: { username: "exact", dataLimitBytes }, requestId: newRequestId() };
  const first = await client.call(users.createUser, request);
  const again = await client.call(users.createUser, request);
  assert.equal(first.user.dataLimitBytes, dataLimitBytes);
  assert.equal(again.user.id, first.user.id);

  // Path fields inside the resource, and the mask of what is changed.
  const changed = await client.call(users.updateUser, {
    user: { id: first.user.id, tenantId, note: "changed" },
  });
  assert.equal(changed.user.note, "changed");
  const cleared = await client.call(users.updateUser, {
    user: { id: first.user.id, tenantId },
    updateMask: { paths: ["note"] },
  });
  assert.equal(cleared.user.note, "");
  assert.equal(cleared.user.dataLimitBytes, dataLimitBytes);
});

test("pages follow each other to the last", async () => {
  const { client, tenantId } = shared;
  const names = ["page-1", "page-2", "page-3"];
  for (const username of names) await client.call(users.createUser, { tenantId, user: { username } });
  const listed = [];
  for await (const page of client.pages(users.listUsers, { tenantId, pageSize: 1 })) {
    assert.ok(page.users.length <= 1);
    listed.push(...page.users.map((user) => user.username));
  }
  for (const name of names) assert.ok(listed.includes(name), `${name} in ${listed}`);
});

test("a token that is refused is renewed by one of many calls", async () => {
  let renewals = 0;
  let spoil = false;
  const { client } = await signedIn({
    fetch: (url, init) => {
      if (String(url).endsWith("/v1/auth/refresh")) renewals++;
      else if (spoil) init = { ...init, headers: { ...init.headers, authorization: "Bearer none" } };
      return fetch(url, init);
    },
  });
  spoil = true;
  await assert.rejects(client.call(AuthService.method.getMe, {}), refused(Code.Unauthenticated));
  spoil = false;
  await Promise.all(Array.from({ length: 20 }, () => client.call(AuthService.method.getMe, {})));
  assert.equal(renewals, 1);
});

test("64-bit integers are exact beyond what a number holds", async () => {
  const answered = async () => Response.json({ id: "u", usedBytes: "9007199254740993" });
  const client = new Client("", { fetch: answered });
  const { user } = await client.call(users.getUser, { tenantId: "t", userId: "u" });
  assert.equal(user.usedBytes, 9_007_199_254_740_993n);
});

/** A client whose stream answers these bytes, one at a time, and the lines of its messages. */
async function streamed(text, lines) {
  const body = ReadableStream.from(Array.from(text, (each) => new TextEncoder().encode(each)));
  const client = new Client("", { fetch: async () => new Response(body) });
  const logs = client.stream(NodeService.method.streamNodeLogs, { nodeId: "n" });
  for await (const each of logs) lines.push(each.lines);
}

test("a stream ends where it is complete, by its error, or as broken off", async () => {
  const message = ': heartbeat\n\ndata: {"lines":"é\\n"}\n\n';
  const lines = [];
  await streamed(`${message}${message}event: end\ndata: {}\n\n`, lines);
  assert.deepEqual(lines, ["é\n", "é\n"]);

  const error = '{"code":14,"message":"gone","details":[]}';
  const failed = streamed(`${message}event: error\ndata: ${error}\n\n`, lines);
  await assert.rejects(failed, refused(Code.Unavailable));
  await assert.rejects(streamed(message, lines), TransportError);
  assert.equal(lines.length, 4);
});

test("an error of a stream is an error of the API", async () => {
  const { client } = shared;
  const logs = client.stream(NodeService.method.streamNodeLogs, {
    nodeId: "0190a0a0-0000-7000-8000-000000000000",
  });
  await assert.rejects(logs.next(), refused(Code.NotFound));
});

test("a call that lacks what its path needs says so", async () => {
  const client = new Client(control.address);
  await assert.rejects(client.call(users.getUser, { tenantId: "t" }), /GetUser needs .*userId/);
});

test("a path is that of the contract, with the variables that are given", async () => {
  const asked = [];
  const client = new Client("", {
    fetch: async (url, init) => {
      asked.push(`${init.method} ${url}`);
      return Response.json({});
    },
  });
  await client.call(users.getUser, { tenantId: "t", userId: "a/b" });
  await client.call(users.updateUser, { user: { tenantId: "t", id: "u", note: "n" } });
  await client.call(NodeService.method.getNode, { nodeId: "n" });
  await client.call(NodeService.method.getNode, { tenantId: "t", nodeId: "n" });
  await client.call(users.listUsers, { tenantId: "t", pageSize: 5, pageToken: "&" });
  assert.deepEqual(asked, [
    "GET /v1/tenants/t/users/a%2Fb",
    "PATCH /v1/tenants/t/users/u",
    "GET /v1/nodes/n",
    "GET /v1/tenants/t/nodes/n",
    "GET /v1/tenants/t/users?pageSize=5&pageToken=%26",
  ]);
});

test("a file is not taken for a message", async () => {
  const fetched = new Client("").call(SubscriptionService.method.getSubscription, { token: "t" });
  await assert.rejects(fetched, /fetch it by its URL/);
});

test("a call is repeated while the control plane is unavailable, and only then", async () => {
  let attempts = 0;
  const { client } = shared;
  const flaky = () => {
    if (++attempts < 3) throw new TransportError("nobody there");
    return client.call(AuthService.method.getMe, {});
  };
  await retrying(3, async () => flaky());
  assert.equal(attempts, 3);
  const nobody = new Client("http://127.0.0.1:1");
  await assert.rejects(nobody.call(AuthService.method.getMe, {}), TransportError);
});

test("a browser's bundle builds without Node and holds only the services that it uses", async () => {
  const bundle = await build({
    stdin: {
      contents: `import { Client } from "@vpnpanel/client";
        import { SystemService } from "@vpnpanel/client/gen/vpnpanel/system/v1/system";
        new Client("").call(SystemService.method.getSystemInfo, {});`,
      resolveDir: FOLDER,
    },
    bundle: true,
    format: "esm",
    platform: "browser",
    metafile: true,
    treeShaking: true,
    write: false,
  });
  const inputs = Object.values(bundle.metafile.outputs)[0].inputs;
  const held = Object.keys(inputs).filter((name) => inputs[name].bytesInOutput > 0).join("\n");
  assert.match(held, /gen\/vpnpanel\/system/);
  assert.doesNotMatch(held, /gen\/vpnpanel\/(user|node|usage)\//);
});

test("the example of the README works as written, and by its types", async () => {
  const readme = await readFile(join(FOLDER, "README.md"), "utf8");
  const example = readme.split("```ts\n")[1].split("```")[0];
  const address = "http://127.0.0.1:8080";
  assert.ok(example.includes(address));
  const folder = await mkdtemp(join(FOLDER, "dist/readme-"));
  try {
    const file = join(folder, "example.mts");
    await writeFile(file, example.replace(address, control.address));
    const options = ["--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"];
    const run = promisify(execFile);
    const tsc = join(FOLDER, "node_modules/typescript/bin/tsc");
    await run(process.execPath, [tsc, ...options, file]).catch((error) => assert.fail(error.stdout));
    const { stdout } = await run(process.execPath, [file.replace(/mts$/, "mjs")]);
    assert.match(stdout, /^ada: 0 bytes$/m);
  } finally {
    await rm(folder, { recursive: true });
  }
});
