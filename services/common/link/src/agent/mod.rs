//! The agent's end of the link: `step(event, now) → effects`. It decides what is written before
//! what, what is sent, who may pass; sockets, redb and engines are the driver's.

mod durable;
mod event;

pub use durable::{
    BatchRecord, CounterRecord, Durable, EpochNumber, EpochRecord, TimeAnchor, Transaction, Write,
};
pub use event::{Alarm, Change, Effect, Event, Gate, Now, Reading, Ticket};

use crate::Entropy;

/// What does not change while an agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of the agent's software.
    pub agent_version: String,
    /// Beyond the base protocol, for example "wireguard", "kernel-quota".
    pub capabilities: Vec<String>,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
    pub host_boot: [u8; 16],
    /// What the host's line can carry, bytes per second: an upper bound of what passed unread
    /// when counters are lost.
    pub line_rate: u64,
    /// Bytes of payloads beyond which usage is kept with coarser times.
    pub spool_soft_bytes: u64,
    /// How long batches are kept after they were acknowledged, milliseconds.
    pub retention_ms: i64,
    /// How long segments are kept after they last grew, milliseconds.
    pub segment_retention_ms: i64,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Agent {
    durable: Durable,
    settings: Settings,
}

impl Agent {
    /// A machine at the start of the process, on what was found on disk.
    pub fn start(
        durable: Durable,
        settings: Settings,
        now: Now,
        entropy: &mut dyn Entropy,
    ) -> (Self, Vec<Effect>) {
        let _ = (now, entropy);
        (Self { durable, settings }, Vec::new())
    }

    /// Takes an event; the effects are carried out in order.
    pub fn step(&mut self, event: Event, now: Now, entropy: &mut dyn Entropy) -> Vec<Effect> {
        let _ = (event, now, entropy, &self.settings, &self.durable);
        Vec::new()
    }

    /// When to step with [`Event::Tick`], on `CLOCK_BOOTTIME`, milliseconds.
    pub fn deadline(&self) -> i64 {
        0
    }
}

impl Default for Settings {
    fn default() -> Self {
        const HOUR_MS: i64 = 3_600_000;
        Self {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: Vec::new(),
            host_boot: [0; 16],
            line_rate: 1_250_000_000,
            spool_soft_bytes: 256 * 1024 * 1024,
            retention_ms: 48 * HOUR_MS,
            segment_retention_ms: 35 * 24 * HOUR_MS,
        }
    }
}
