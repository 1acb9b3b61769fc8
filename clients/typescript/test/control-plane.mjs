// A control plane of this build on free ports, with a data folder that goes when the test ends.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BINARY = fileURLToPath(new URL("../../../target/debug/vpnpanel", import.meta.url));
const ONE_TIME = "one-time password of a test";
export const EMAIL = "admin@localhost";
export const PASSWORD = "correct horse battery staple";

const LISTENERS = [
  "CONTROL_API_LISTEN",
  "CONTROL_API_ADMIN_LISTEN",
  "CONTROL_API_SERVICES_LISTEN",
  "COLLECTOR_LISTEN",
  "COLLECTOR_ENROLMENT_LISTEN",
  "COLLECTOR_ADMIN_LISTEN",
  "SCHEDULER_LISTEN",
  "SCHEDULER_ADMIN_LISTEN",
  "GATEWAY_LISTEN",
  "GATEWAY_ADMIN_LISTEN",
];

/** Starts one and changes its one-time password; returns its address and how to stop it. */
export async function start(Client) {
  const data = await mkdtemp(join(tmpdir(), "vpnpanel-client-"));
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith("VPNPANEL_"));
  const child = spawn(BINARY, ["up"], {
    cwd: data,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      ...Object.fromEntries(own),
      ...Object.fromEntries(LISTENERS.map((name) => [`VPNPANEL_${name}`, "127.0.0.1:0"])),
      VPNPANEL_ARGON2_MEMORY: "8MiB",
      VPNPANEL_ARGON2_TIME_COST: "1",
      VPNPANEL_LOCAL_NODE: "false",
      VPNPANEL_LOG_FORMAT: "json",
      VPNPANEL_DATA_DIR: data,
      VPNPANEL_BOOTSTRAP_PASSWORD: ONE_TIME,
    },
  });
  const exited = once(child, "exit");
  const stop = async () => {
    child.kill("SIGTERM");
    await exited;
    await rm(data, { recursive: true });
  };
  try {
    const address = await serving(child);
    const client = new Client(address);
    const signedIn = await client.signIn({ email: EMAIL, password: ONE_TIME });
    await client.changePassword(ONE_TIME, PASSWORD);
    await client.signOut();
    return { address, signedIn, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The gateway's address, once everything serves. */
function serving(child) {
  const lines = [];
  let address;
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`it ended:\n${lines.join("\n")}`)));
    const read = (line) => {
      lines.push(line);
      if (!line.startsWith("{")) return;
      const said = JSON.parse(line);
      if (said.event === "listening" && said.service === "gateway" && said.listener !== "admin") {
        address = `http://${said.address}`;
      }
      if (said.event === "ready to serve") resolve(address);
    };
    for (const stream of [child.stdout, child.stderr]) createInterface(stream).on("line", read);
  });
}
