//! Finds the parameters of Argon2id for a host: as much memory as is allowed, because memory is
//! what makes guessing on special hardware expensive, and then as many passes as fit the time.

use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::AuthError;

/// OWASP's least for Argon2id with two passes.
const MIN_MEMORY_KIB: u32 = 19 * 1024;
const MIN_PASSES: u32 = 2;
const MAX_PASSES: u32 = 32;

/// Parameters of a password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Passes over the memory.
    pub time_cost: u32,
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Lanes.
    pub parallelism: u32,
}

/// Parameters that were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuned {
    /// The parameters.
    pub cost: Cost,
    /// What one hash takes with them.
    pub takes: Duration,
}

/// The most expensive parameters within `target`, of at most `most` memory and with its lanes.
/// Where even the least that is safe takes longer, that.
///
/// # Errors
/// Those of `measure`.
pub fn tune<E>(
    target: Duration,
    most: Cost,
    mut measure: impl FnMut(Cost) -> Result<Duration, E>,
) -> Result<Tuned, E> {
    let mut cost = Cost {
        time_cost: MIN_PASSES,
        memory_kib: most.memory_kib.max(MIN_MEMORY_KIB),
        parallelism: most.parallelism,
    };
    let mut takes = measure(cost)?;
    while takes > target && cost.memory_kib > MIN_MEMORY_KIB {
        cost.memory_kib = (cost.memory_kib / 2).max(MIN_MEMORY_KIB);
        takes = measure(cost)?;
    }
    while takes < target && cost.time_cost < MAX_PASSES {
        let more = Cost {
            time_cost: cost.time_cost + 1,
            ..cost
        };
        let longer = measure(more)?;
        if longer > target {
            break;
        }
        (cost, takes) = (more, longer);
    }
    Ok(Tuned { cost, takes })
}

/// Measures one hash: the median of three, in memory that is there already, as it is in the pool
/// of a busy service.
///
/// # Errors
/// [`AuthError::HashParameters`].
pub fn measure(cost: Cost) -> Result<Duration, AuthError> {
    let refused = |e: argon2::Error| AuthError::HashParameters(e.to_string());
    let params = Params::new(cost.memory_kib, cost.time_cost, cost.parallelism, Some(32));
    let params = params.map_err(refused)?;
    let mut area = vec![Block::new(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut runs = Vec::new();
    // The first one maps the memory and is not counted.
    for _ in 0..4 {
        let began = Instant::now();
        let mut output = [0_u8; 32];
        argon2
            .hash_password_into_with_memory(
                b"a password of usual length",
                &[7; 16],
                &mut output,
                area.as_mut_slice(),
            )
            .map_err(refused)?;
        runs.push(began.elapsed());
    }
    let counted = &mut runs[1..];
    counted.sort_unstable();
    Ok(counted[1])
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const BASELINE: Cost = Cost {
        time_cost: 2,
        memory_kib: 512 * 1024,
        parallelism: 2,
    };

    /// A host on which a pass over a MiB takes so many microseconds.
    fn on(micros: u64, target_ms: u64) -> Tuned {
        let target = Duration::from_millis(target_ms);
        let model = |cost: Cost| {
            let mib = u64::from(cost.memory_kib) / 1024;
            Ok::<_, Infallible>(Duration::from_micros(
                mib * u64::from(cost.time_cost) * micros,
            ))
        };
        tune(target, BASELINE, model).unwrap()
    }

    #[test]
    fn memory_comes_before_passes() {
        let fast = on(100, 500);
        assert_eq!((fast.cost.memory_kib, fast.cost.time_cost), (512 * 1024, 9));
        assert!(fast.takes <= Duration::from_millis(500));
        let slow = on(1000, 500);
        assert_eq!((slow.cost.memory_kib, slow.cost.time_cost), (128 * 1024, 3));
    }

    #[test]
    fn it_never_falls_below_what_is_safe() {
        let tuned = on(100_000, 500);
        assert_eq!(tuned.cost.memory_kib, MIN_MEMORY_KIB);
        assert_eq!(tuned.cost.time_cost, MIN_PASSES);
        assert!(tuned.takes > Duration::from_millis(500), "and says so");
    }

    #[test]
    fn a_hash_is_measured() {
        let small = Cost {
            time_cost: 1,
            memory_kib: 64,
            parallelism: 1,
        };
        assert!(measure(small).unwrap() > Duration::ZERO);
        let wrong = Cost {
            parallelism: 0,
            ..small
        };
        assert!(measure(wrong).is_err());
    }
}
