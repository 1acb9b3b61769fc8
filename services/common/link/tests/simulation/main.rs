//! The node link in a world of misfortune. Both ends are the real machines; time, network, disks,
//! engines and database are the simulation's. A run is a seed:
//!
//! - `LINK_SIM_SEEDS=20000` sets how many are run (2,000 otherwise), `LINK_SIM_WORKERS=1` on how many
//!   cores,
//! - `LINK_SIM_SEED=77` replays one, and `LINK_SIM_TRACE=1` prints its steps.

/// How many seeds are run where nobody says how many.
const SEEDS: u64 = 2_000;

/// Prints a step of a replayed run: `LINK_SIM_TRACE=1`.
macro_rules! trace {
    ($($text:tt)*) => {
        if $crate::traced() {
            println!($($text)*);
        }
    };
}

mod commands;
mod coverage;
mod database;
mod engine;
mod host;
mod misfortune;
mod mutation;
mod plane;
mod random;
mod truth;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use coverage::Coverage;
use mutation::Mutation;
use world::World;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn traced() -> bool {
    static TRACED: OnceLock<bool> = OnceLock::new();
    *TRACED.get_or_init(|| number("LINK_SIM_TRACE").is_some())
}

fn run(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let run = || match mutation {
        Some(Mutation::EngineDeathRefunds) => World::of_dying_engines(seed, mutation).run(),
        Some(Mutation::FailedReadIsEmpty) => World::of_deaf_engines(seed, mutation).run(),
        Some(Mutation::OtherEngineForgotten) => World::through_both_engines(seed, mutation).run(),
        _ => World::new(seed, mutation).run(),
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a machine panicked".to_owned()))
}

/// What came of many seeds.
struct Outcome {
    /// The seed that failed, and why.
    failure: Option<(u64, String)>,
    coverage: Coverage,
}

/// Runs seeds on every core until one fails.
fn run_all(seeds: u64, mutation: Option<Mutation>) -> Outcome {
    let next = AtomicU64::new(0);
    let coverage = Mutex::new(Coverage::default());
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    let workers = number("LINK_SIM_WORKERS").map_or(workers, |workers| workers as usize);
    let failure = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds {
                            return None;
                        }
                        let outcome = run(seed, mutation);
                        if let Ok(mut coverage) = coverage.lock() {
                            coverage.count_run();
                        }
                        if let Err(what) = outcome {
                            next.store(seeds, Ordering::Relaxed);
                            return Some((seed, what));
                        }
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok().flatten())
            .min()
    });
    Outcome {
        failure,
        coverage: coverage.into_inner().unwrap_or_default(),
    }
}

#[test]
fn every_byte_is_billed_once_whatever_happens() {
    if let Some(seed) = number("LINK_SIM_SEED") {
        run(seed, None).unwrap_or_else(|what| panic!("LINK_SIM_SEED={seed}: {what}"));
        return;
    }
    let seeds = number("LINK_SIM_SEEDS").unwrap_or(SEEDS);
    let Outcome { failure, coverage } = run_all(seeds, None);
    println!("{coverage}");
    if let Some((seed, what)) = failure {
        panic!("LINK_SIM_SEED={seed}: {what}");
    }
    if seeds >= SEEDS {
        let missing = coverage.missing();
        assert!(missing.is_empty(), "never happened: {missing:#?}");
    }
}

/// A run of its own, where chance does not meet what it is about often enough.
fn directed(mutation: Option<Mutation>) -> Option<(u64, String)> {
    (0..20).find_map(|seed| {
        let run = World::restored_while_a_node_is_away(seed, mutation);
        run.err().map(|what| (seed, what))
    })
}

#[test]
fn nothing_is_granted_before_a_node_that_is_away_has_reported() {
    if let Some((seed, what)) = directed(None) {
        panic!("seed {seed}: {what}");
    }
    let (seed, what) =
        directed(Some(Mutation::GrantsBeforeBarrier)).expect("grants before the barrier is down");
    println!("seed {seed}: {what}");
    assert!(what.contains("whose limit is"), "{what}");
}

#[test]
fn a_report_that_is_lost_before_it_counts_is_made_again() {
    let failed = |mutation| {
        (0..20).find_map(|seed| {
            let run = World::failed_over_before_a_report_counts(seed, mutation);
            run.err().map(|what| (seed, what))
        })
    };
    if let Some((seed, what)) = failed(None) {
        panic!("seed {seed}: {what}");
    }
    let overlooked = Some(Mutation::LostReportsOverlooked);
    let (seed, what) = failed(overlooked).expect("what the node holds is granted to others");
    println!("seed {seed}: {what}");
}

#[test]
fn an_engine_that_dies_again_and_again_lets_nobody_beyond_the_limit() {
    for seed in 0..200 {
        let run = World::of_dying_engines(seed, None).run();
        run.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn engines_that_cannot_be_read_now_and_then_lose_nothing() {
    for seed in 0..100 {
        let run = World::of_deaf_engines(seed, None).run();
        run.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn who_sends_through_both_engines_has_one_allowance() {
    for seed in 0..100 {
        let run = World::through_both_engines(seed, None).run();
        run.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn a_node_that_is_cut_off_over_boundaries_bills_the_announced_periods_and_no_other() {
    for seed in 0..50 {
        World::cut_off_over_boundaries(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn every_broken_rule_is_found() {
    let missed: Vec<_> = Mutation::ALL
        .into_iter()
        // Found by runs of their own.
        .filter(|mutation| {
            let own = [
                Mutation::GrantsBeforeBarrier,
                Mutation::LostReportsOverlooked,
            ];
            !own.contains(mutation)
        })
        .filter(|mutation| match run_all(400, Some(*mutation)).failure {
            Some((seed, what)) => {
                println!("{mutation:?}: seed {seed}: {what}");
                false
            }
            None => true,
        })
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
