//! Random numbers whose seed is printed: `VPNPANEL_TEST_SEED` replays a run.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Random numbers of one test.
pub(crate) struct Chance(StdRng);

impl Chance {
    /// Takes the seed from the environment or draws one, and prints it.
    pub(crate) fn new(test: &str) -> Self {
        let seed = setting("VPNPANEL_TEST_SEED", rand::random());
        println!("{test}: VPNPANEL_TEST_SEED={seed}");
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number of the range.
    pub(crate) fn between(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// One of the items.
    pub(crate) fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = self.between(0..items.len() as u64);
        &items[usize::try_from(index).expect("an index")]
    }
}

/// A number from the environment of the test.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
        Err(_) => default,
    }
}
