//! Cost of the API: CPU of the server for each REST and gRPC call, beside the same bytes from a
//! bare server, with 100,000 users; start-up and memory as well. Prints a section of
//! docs/benchmarks.md; `scripts/bench` runs it.
//!
//! `VPNPANEL_BENCH_USERS` and `VPNPANEL_BENCH_CALLS` change the sizes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for people: what goes wrong ends it, what was measured is printed"
)]

mod bare;
mod load;
mod server;
mod table;

use std::time::Duration;

use anyhow::{Context, Result};
use load::{Grpc, Rest};
use server::Server;
use table::Table;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // The bare servers run in processes of their own, so that their CPU can be told apart.
    match arguments.iter().position(|argument| argument == "--bare") {
        Some(at) => bare::serve(&arguments[at + 1], &arguments[at + 2]),
        // `cargo test --benches` only checks that it builds.
        None if !arguments.iter().any(|argument| argument == "--bench") => Ok(()),
        None => measure(),
    }
}

/// Limits are not what is measured, and Argon2's work areas are counted apart.
const SETTINGS: server::Settings = &[
    ("VPNPANEL_RATE_LIMITS", "false"),
    ("VPNPANEL_ARGON2_MEMORY", "8MiB"),
];

#[tokio::main(flavor = "current_thread")]
async fn measure() -> Result<()> {
    let users = number("VPNPANEL_BENCH_USERS", 100_000)?;
    let calls = number("VPNPANEL_BENCH_CALLS", 20_000)?;
    let mut table = Table::new(&format!("API, {users} users, SQLite, one process"));

    let mut server = Server::start(SETTINGS)?;
    server.ready().await?;
    let mut rest = Rest::connect(server::GATEWAY).await?;
    let tenant = rest.first_sign_in(server::ONE_TIME_PASSWORD).await?;

    eprintln!("creating {users} users");
    let create = load::create_users(&rest, &server, &tenant, users).await?;
    let first_page = format!("/v1/tenants/{tenant}/users?pageSize=50");
    let listed = rest.get(&first_page).await?;
    let user = listed["users"][0]["id"]
        .as_str()
        .context("a user")?
        .to_owned();
    let last_page = rest.last_page(&tenant, 50).await?;

    eprintln!("reading");
    let get_path = format!("/v1/tenants/{tenant}/users/{user}");
    let get = rest.measure(&server, &get_path, calls).await?;
    let list_first = rest.measure(&server, &first_page, calls / 4).await?;
    let list_last = rest.measure(&server, &last_page, calls / 4).await?;
    let grpc = Grpc::connect(server::CONTROL_API, &rest).await?;
    let unary = grpc.measure(&server, &tenant, &user, calls).await?;
    let loaded = server.memory()?;

    let bare_get = bare_rest(&rest.bytes(&get_path).await?, calls).await?;
    let bare_list = bare_rest(&rest.bytes(&first_page).await?, calls / 4).await?;
    let bare_unary = bare_grpc(&tenant, &user, calls).await?;

    eprintln!("starting again");
    server.stop().await?;
    let started = std::time::Instant::now();
    let mut server = Server::start_on(server, SETTINGS)?;
    server.ready().await?;
    let start = started.elapsed();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let idle = server.memory()?;

    table.cpu(
        "get user, REST",
        get,
        Some(("plain hyper, same bytes", bare_get)),
        "≤ 200 µs",
    );
    table.cpu(
        "get user, gRPC",
        unary,
        Some(("plain tonic, same bytes", bare_unary)),
        "–",
    );
    table.cpu(
        "get user, REST over gRPC",
        get,
        Some(("the same call by gRPC", unary)),
        "≤ 1.3 ×",
    );
    table.cpu(
        "list 50, first page",
        list_first,
        Some(("plain hyper", bare_list)),
        "≤ 800 µs",
    );
    table.cpu(
        "list 50, last page",
        list_last,
        Some(("the first page", list_first)),
        "≤ 1.3 ×",
    );
    table.cpu("create user, REST", create, None, "≤ 600 µs");
    table.row(
        "start to ready",
        &format!("{} ms", start.as_millis()),
        "–",
        "–",
        "≤ 500 ms",
    );
    table.row("memory, idle", &mebibytes(idle), "–", "–", "≤ 60 MiB");
    table.row(
        "memory, after load",
        &mebibytes(loaded),
        "–",
        "–",
        "≤ 120 MiB",
    );
    table.print();
    server.stop().await
}

async fn bare_rest(body: &[u8], calls: u64) -> Result<load::Cost> {
    let bare = Server::bare("rest", body)?;
    let rest = Rest::connect(server::BARE).await?;
    rest.measure(&bare, "/", calls).await
}

async fn bare_grpc(tenant: &str, user: &str, calls: u64) -> Result<load::Cost> {
    let bare = Server::bare("grpc", user.as_bytes())?;
    let grpc = Grpc::anonymous(server::BARE).await?;
    grpc.measure(&bare, tenant, user, calls).await
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} must be a number")),
        Err(_) => Ok(default),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
