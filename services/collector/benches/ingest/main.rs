//! Ingest: user deltas per second from agents over mutual TLS until they are acknowledged, beside the
//! same row set by plain SQL on the same database in the same run; on SQLite and PostgreSQL. Prints a
//! section of docs/benchmarks.md; `scripts/bench` runs it.
//!
//! `VPNPANEL_BENCH_INGEST_USERS`, `…_NODES` and `…_ROUNDS` change the sizes: each round, each node
//! reports one row for each user.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    reason = "a program for people: what goes wrong ends it, what was measured is printed"
)]

#[path = "../../tests/behaviour/agent.rs"]
mod agent;
#[path = "../../tests/behaviour/fleet.rs"]
mod fleet;
mod load;
mod plain;

use std::time::Duration;

use vpnpanel_store::testing::TestStore;

/// Rows of a batch, as agents write them.
const BATCH: usize = 1_024;

/// Sizes of a run.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    users: usize,
    nodes: usize,
    rounds: usize,
}

/// What a run took.
#[derive(Debug, Clone, Copy)]
struct Figure {
    deltas: u64,
    /// The first round only adds rows, the later ones change them.
    first_round: Duration,
    rest: Duration,
    /// Longest waits of others for the database meanwhile.
    p99_wait: Duration,
    longest_wait: Duration,
}

impl Figure {
    fn per_second(self) -> f64 {
        self.deltas as f64 / (self.first_round + self.rest).as_secs_f64()
    }
}

fn main() {
    // `cargo test --benches` only checks that it builds.
    if std::env::args().any(|argument| argument == "--bench") {
        measure();
    }
}

#[tokio::main]
async fn measure() {
    let sizes = Sizes {
        users: number("USERS", 100_000),
        nodes: number("NODES", 10),
        rounds: number("ROUNDS", 2),
    };
    let Sizes {
        users,
        nodes,
        rounds,
    } = sizes;
    println!("## Ingest, {users} users on {nodes} nodes, {rounds} reports each\n");
    println!(
        "A delta is one user's row of one node. Plain SQL writes the same rows (bucket, mark, period, \
         cursor) in transactions of 16,384, nothing else; ours also speaks mutual TLS, decodes, \
         checks, locks, decides and acknowledges after the commit.\n"
    );
    println!(
        "| database | deltas/s | plain SQL | ratio | target | first report / later ones | others' writes wait, p99 / longest |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let only = std::env::var("VPNPANEL_BENCH_INGEST_ONLY").unwrap_or_default();
    for (name, postgres) in [("SQLite", false), ("PostgreSQL", true)] {
        if !name.contains(&only) {
            continue;
        }
        eprintln!("{name}: plain SQL");
        let limit = plain::run(store(postgres).await, sizes).await;
        eprintln!("{name}: {limit:?}");
        eprintln!("{name}: agents over mutual TLS");
        let ours = load::run(store(postgres).await, sizes).await;
        eprintln!("{name}: {ours:?}");
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} × | ≥ 0.5 × | {:.1} s / {:.1} s | {:.0} ms / {:.0} ms |",
            ours.per_second(),
            limit.per_second(),
            ours.per_second() / limit.per_second(),
            ours.first_round.as_secs_f64(),
            ours.rest.as_secs_f64(),
            ours.p99_wait.as_secs_f64() * 1e3,
            ours.longest_wait.as_secs_f64() * 1e3,
        );
    }
    println!();
}

async fn store(postgres: bool) -> TestStore {
    if postgres {
        TestStore::postgres().await
    } else {
        TestStore::sqlite().await
    }
}

fn number(name: &str, default: usize) -> usize {
    match std::env::var(format!("VPNPANEL_BENCH_INGEST_{name}")) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}
