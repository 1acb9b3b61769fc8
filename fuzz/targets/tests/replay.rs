//! What outsiders send, in an ordinary test: each file of `fuzz/corpus` by itself, then mutations
//! of all of them. A file called `valid-…` is accepted and one called `bad-…` is refused.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `VPNPANEL_TEST_SEED` | replays the mutations of a run |
//! | `VPNPANEL_TEST_MUTATIONS` | how many for each kind of input (default 2000) |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests: a failure is a panic, and the seed is printed"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vpnpanel_fuzz_targets::{TARGETS, Target};

/// Longer inputs are for the fuzzer.
const MAX_LEN: usize = 16 * 1024;

/// Makes a test of each target.
macro_rules! on_each_target {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[test]
            fn files_are_taken_as_they_are_named() {
                super::replay(super::target(stringify!($name)));
            }

            #[test]
            fn mutations_break_nothing() {
                super::mutate(super::target(stringify!($name)));
            }
        })+

        #[test]
        fn every_target_and_every_folder_of_the_corpus_is_tried() {
            let names = TARGETS.map(|target| target.name);
            assert_eq!(names.as_slice(), &[$(stringify!($name)),+]);
            let mut folders: Vec<_> = std::fs::read_dir(corpus())
                .unwrap()
                .map(|folder| folder.unwrap().file_name().into_string().unwrap())
                .collect();
            folders.sort();
            assert_eq!(folders, names);
            for name in names {
                let main = corpus().join(format!("../fuzz_targets/{name}.rs"));
                assert!(main.is_file(), "no fuzz_targets/{name}.rs");
            }
        }
    };
}

on_each_target! {
    access_tokens,
    answers,
    certificate_requests,
    certificates,
    desired_states,
    frames_down,
    frames_up,
    pem,
    requests,
    templates,
    tokens,
    usage,
}

fn corpus() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus"))
}

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).unwrap()
}

/// The files of a target, by name.
fn files(target: Target) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(corpus().join(target.name))
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn replay(target: Target) {
    let (mut valid, mut bad) = (0, 0);
    for (name, data) in files(target) {
        let accepted = (target.run)(&data);
        if name.starts_with("valid-") {
            assert!(accepted, "{}/{name} was refused", target.name);
            valid += 1;
        } else {
            assert!(name.starts_with("bad-"), "{name}: valid or bad?");
            assert!(!accepted, "{}/{name} was accepted", target.name);
            bad += 1;
        }
    }
    assert!(valid > 0 && bad > 0, "{}: examples of both", target.name);
}

fn mutate(target: Target) {
    let seed = setting("VPNPANEL_TEST_SEED").unwrap_or_else(rand::random);
    println!("{}: VPNPANEL_TEST_SEED={seed}", target.name);
    let mut chance = StdRng::seed_from_u64(seed);
    let files = files(target);
    for _ in 0..setting("VPNPANEL_TEST_MUTATIONS").unwrap_or(2_000) {
        let mut data = files[chance.random_range(0..files.len())].1.clone();
        for _ in 0..chance.random_range(1..5) {
            change(&mut chance, &mut data, &files);
        }
        let taken = catch_unwind(AssertUnwindSafe(|| (target.run)(&data)));
        assert!(
            taken.is_ok(),
            "{} (seed {seed}): {}",
            target.name,
            data.escape_ascii()
        );
    }
}

/// One small change: what fuzzers do, without their guidance.
fn change(chance: &mut StdRng, data: &mut Vec<u8>, files: &[(String, Vec<u8>)]) {
    const ODD: [&[u8]; 12] = [
        b"\0",
        b"\xff",
        b"\n",
        b"\n\n",
        b"/",
        b"%2f",
        b"..",
        b"{",
        b"\"",
        b"-1",
        b"9223372036854775808",
        "\u{202e}é".as_bytes(),
    ];
    let at = chance.random_range(0..=data.len());
    let end = (at + chance.random_range(0..16)).min(data.len());
    match chance.random_range(0..7) {
        0 if at < data.len() => data[at] ^= 1 << chance.random_range(0..8),
        1 if at < data.len() => data[at] = chance.random(),
        2 => data.truncate(at),
        3 => {
            data.drain(at..end);
        }
        4 => {
            let part = data[at..end].to_vec();
            data.splice(at..at, part);
        }
        5 => {
            let odd = ODD[chance.random_range(0..ODD.len())];
            data.splice(at..at, odd.iter().copied());
        }
        _ => {
            // The end of another file.
            let other = &files[chance.random_range(0..files.len())].1;
            let from = chance.random_range(0..=other.len());
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
    }
    data.truncate(MAX_LEN);
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
    )
}
