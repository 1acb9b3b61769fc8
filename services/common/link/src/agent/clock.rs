//! The server's time on the agent: what the control plane said last, plus `CLOCK_BOOTTIME` since.
//! Wall clocks of edge hosts jump; this one never goes back over a reboot.

use super::{Agent, Now, TimeAnchor, Write};

/// How stale the anchor on disk may become: what time can fall back by over a reboot.
const ANCHOR_AGE_MS: i64 = 60_000;

impl Agent {
    /// The server's time, milliseconds of the Unix epoch.
    pub(super) fn server_ms(&self, now: Now) -> i64 {
        match self.durable.anchor {
            Some(anchor) if anchor.host_boot == self.settings.host_boot => {
                anchor.server_ms + (now.boottime_ms - anchor.boottime_ms).max(0)
            }
            // `start` writes an anchor of this boot; without one there is only the wall clock.
            Some(anchor) => anchor.server_ms.max(now.wall_ms),
            None => now.wall_ms,
        }
    }

    /// After a reboot: not behind what was on disk, and not behind the wall clock.
    pub(super) fn anchor_at_start(&mut self, now: Now) {
        let known = self
            .durable
            .anchor
            .is_some_and(|anchor| anchor.host_boot == self.settings.host_boot);
        if !known {
            self.anchor(self.server_ms(now), now);
        }
    }

    /// The control plane has told the time.
    pub(super) fn anchor(&mut self, server_ms: i64, now: Now) {
        let anchor = TimeAnchor {
            server_ms,
            boottime_ms: now.boottime_ms,
            host_boot: self.settings.host_boot,
        };
        self.write(Write::Anchor(anchor));
    }

    /// Carries the anchor forward now and then, with a transaction that is written anyway.
    pub(super) fn refresh_anchor(&mut self, now: Now) {
        let age = self.durable.anchor.map_or(i64::MAX, |anchor| {
            now.boottime_ms.saturating_sub(anchor.boottime_ms)
        });
        if age >= ANCHOR_AGE_MS {
            self.anchor(self.server_ms(now), now);
        }
    }
}
