//! That the work areas of password hashes leave the process, and not only the pool. Alone in its
//! process, because it looks at the memory of all of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use vpnpanel_auth::{PasswordHasher, PasswordSettings};

const AREA_MIB: u64 = 128;

/// Memory of this process that is in use, in MiB (proc(5), /proc/pid/status).
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024
}

#[tokio::test]
async fn idle_work_areas_are_given_back_to_the_operating_system() {
    let before = resident_mib();
    let hasher = PasswordHasher::new(PasswordSettings {
        time_cost: 1,
        memory_kib: u32::try_from(AREA_MIB * 1024).unwrap(),
        parallelism: 1,
        concurrency: 2,
        idle: Duration::from_millis(300),
        ..PasswordSettings::default()
    })
    .unwrap();
    let (one, two) = tokio::join!(hasher.hash("a".into()), hasher.hash("b".into()));
    one.unwrap();
    two.unwrap();
    let busy = resident_mib();
    assert!(busy >= before + AREA_MIB, "kept for the next sign-in");
    let given_back = async {
        while resident_mib() > before + AREA_MIB / 8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), given_back)
        .await
        .expect("memory of an idle pool is unmapped");
}
