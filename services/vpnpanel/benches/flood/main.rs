//! A flood of sign-ins on everything in one process, with the product's own limits and Argon2
//! parameters: what it does to memory, health, other calls, and to the owner of the account that is
//! attacked. Prints a section of docs/benchmarks.md; `scripts/bench` runs it.
//!
//! The attacker guesses at the administrator's password and at accounts that are not there, from
//! 200 networks of the loopback (127.1.0.0 to 127.200.0.0), so that limits by address alone would
//! not hold it back. `VPNPANEL_BENCH_FLOOD_SECS` and `…_RATE` change its length and rate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people: what goes wrong ends it, what was measured is printed"
)]

mod client;
#[path = "../api/server.rs"]
#[allow(dead_code, reason = "shared with the benchmark of the API")]
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::task::JoinSet;

use client::{Answer, Client};
use server::Server;

/// Where control-api, which checks the passwords, is asked how it is.
const CONTROL_API_ADMIN: &str = "127.0.0.1:9101";
const EMAIL: &str = "admin@localhost";
const PASSWORD: &str = "correct horse battery staple";
/// Networks that the attacker calls from.
const NETWORKS: u64 = 200;
/// How often other calls are made, and health is asked.
const PROBE: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    // `cargo test --benches` only checks that it builds.
    if std::env::args().any(|argument| argument == "--bench") {
        measure()
    } else {
        Ok(())
    }
}

#[tokio::main]
async fn measure() -> Result<()> {
    let length = Duration::from_secs(number("VPNPANEL_BENCH_FLOOD_SECS", 30)?);
    let rate = number("VPNPANEL_BENCH_FLOOD_RATE", 200)?;
    let mut server = Server::start(&[])?;
    server.ready().await?;
    let owner = Client::from("127.0.0.1")?;
    let token = owner
        .first_sign_in(server::ONE_TIME_PASSWORD, EMAIL, PASSWORD)
        .await?;
    // the work area of that sign-in is given back
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before = server.memory()?;

    eprintln!("idle");
    let done = Arc::new(AtomicBool::new(false));
    let idle = tokio::spawn(probe(token.clone(), Arc::clone(&done)));
    tokio::time::sleep(Duration::from_secs(10)).await;
    done.store(true, Ordering::Relaxed);
    let idle = idle.await??;

    eprintln!("{rate} sign-ins/s for {length:?}");
    let done = Arc::new(AtomicBool::new(false));
    let probed = tokio::spawn(probe(token, Arc::clone(&done)));
    let signed_in = tokio::spawn(sign_in_again_and_again(Arc::clone(&done)));
    let mut largest = before;
    let mut attempts = JoinSet::new();
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < length {
        tokio::time::sleep_until(
            (began + Duration::from_secs(number) / u32::try_from(rate)?).into(),
        )
        .await;
        attempts.spawn(attempt(number));
        number += 1;
        if number % 20 == 0 {
            largest = largest.max(server.memory()?);
        }
    }
    done.store(true, Ordering::Relaxed);
    let (probed, signed_in) = (probed.await??, signed_in.await??);
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(answer) = attempts.join_next().await {
        *answers.entry(answer??).or_default() += 1;
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = server.memory()?;
    server.stop().await?;

    println!(
        "## A flood of sign-ins: {rate}/s for {} s from {NETWORKS} networks\n",
        length.as_secs()
    );
    println!(
        "Everything in one process on SQLite, the product's own limits, Argon2id with 512 MiB, one \
         work area.\n"
    );
    println!("| what | idle | flooded |\n| --- | --- | --- |");
    println!(
        "| list tenants over REST, p50 / p99 / longest | {} | {} |",
        idle.calls, probed.calls
    );
    println!(
        "| `/health` of control-api says ready | {} of {} | {} of {} |",
        idle.ready, idle.asked, probed.ready, probed.asked
    );
    println!(
        "| resident memory, largest / 15 s afterwards | {} MiB | {} / {} MiB |",
        before >> 20,
        largest >> 20,
        after >> 20
    );
    println!(
        "| the owner signs in from a network it has been seen in: times / longest | – | {} / {:.1} s |",
        signed_in.len(),
        signed_in
            .iter()
            .max()
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
    );
    let answers: Vec<_> = answers
        .iter()
        .map(|(name, count)| format!("{count} × {name}"))
        .collect();
    println!(
        "| the attacker is answered | – | {} |\n",
        answers.join(", ")
    );
    Ok(())
}

/// One guess, and how it was answered.
async fn attempt(number: u64) -> Result<String> {
    let network = number % NETWORKS + 1;
    let client = Client::from(&format!("127.{network}.0.1"))?;
    let email = match number % 2 {
        0 => EMAIL.to_owned(),
        _ => format!("nobody{number}@localhost"),
    };
    let answer = client
        .post(
            "/v1/auth/login",
            None,
            &json!({"email": email, "password": format!("guess {number}")}),
        )
        .await?;
    let retry = if answer.retry_after.is_some() {
        " with retry-after"
    } else {
        ""
    };
    Ok(format!("{}{retry}", answer.status))
}

/// The owner, who does what it is told: how long each sign-in took in the end.
async fn sign_in_again_and_again(done: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let owner = Client::from("127.0.0.1")?;
    let body = json!({"email": EMAIL, "password": PASSWORD});
    let mut took = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        loop {
            let answer = owner.post("/v1/auth/login", None, &body).await?;
            if answer.status == 200 {
                took.push(began.elapsed());
                break;
            }
            anyhow::ensure!(
                answer.status == 429,
                "the owner got {}: {}",
                answer.status,
                answer.body
            );
            tokio::time::sleep(answer.retry_after.context("retry-after")?).await;
        }
        // within what one network may try
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    Ok(took)
}

/// What others saw.
struct Probed {
    calls: Spread,
    asked: u32,
    ready: u32,
}

/// How long calls took.
struct Spread(Vec<Duration>);

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |share: usize| self.0[(self.0.len() - 1) * share / 100].as_secs_f64() * 1e3;
        write!(f, "{:.1} / {:.1} / {:.1} ms", at(50), at(99), at(100))
    }
}

/// Somebody else's calls.
async fn probe(token: String, done: Arc<AtomicBool>) -> Result<Probed> {
    let client = Client::from("127.0.0.2")?;
    let mut took = Vec::new();
    let (mut asked, mut ready) = (0, 0);
    let good = |answer: &Answer| answer.status == 200;
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        let answer = client.get("/v1/tenants", Some(&token)).await?;
        anyhow::ensure!(
            good(&answer),
            "a call got {}: {}",
            answer.status,
            answer.body
        );
        took.push(began.elapsed());
        asked += 1;
        ready += u32::from(server::healthy(CONTROL_API_ADMIN).await.unwrap_or(false));
        tokio::time::sleep(PROBE).await;
    }
    took.sort_unstable();
    Ok(Probed {
        calls: Spread(took),
        asked,
        ready,
    })
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(default),
    }
}
