//! An Xray that takes no newcomers. It tells peers by what they know, so that the line is drawn
//! exactly: whoever was there within the last three minutes is let in, connects as often as they
//! like and stays; everybody else is put out, and back in when the cordon ends.

use std::collections::HashMap;
use std::path::Path;

use vpnpanel_domain::PeerId;

use super::Core;
use crate::Error;
use crate::engine::cordon::{Reason, Reasons};
use crate::engine::xray::api::Api;

/// How long somebody without a connection is there: as long as a session of WireGuard lives.
const THERE_SECONDS: u64 = 180;

#[derive(Debug)]
pub(super) struct Cordon {
    reasons: Reasons,
    /// When each peer was there last, seconds of the engine's steady clock.
    there: HashMap<PeerId, u64>,
}

impl Cordon {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            reasons: Reasons::of(folder),
            there: HashMap::new(),
        }
    }

    /// Whether a peer may be let in.
    pub(super) fn lets_in(&self, peer: PeerId) -> bool {
        !self.reasons.any() || self.there.contains_key(&peer)
    }

    /// These are there now.
    pub(super) fn heard(&mut self, peers: impl IntoIterator<Item = PeerId>, now: u64) {
        self.there.extend(peers.into_iter().map(|peer| (peer, now)));
    }

    fn forget_who_left(&mut self, now: u64) {
        self.there
            .retain(|_, heard| now.saturating_sub(*heard) < THERE_SECONDS);
    }
}

impl Core {
    /// Takes no newcomers any more, or takes them again.
    pub(in crate::engine::xray) async fn cordon(
        &mut self,
        reason: Reason,
        on: bool,
    ) -> Result<(), Error> {
        let was_on = self.cordon.reasons.any();
        if on && !was_on && self.running.is_some() {
            // Who came a moment ago is there.
            self.read_log()?;
            self.look_who_is_there();
        }
        self.cordon.reasons.set(reason, on)?;
        if self.running.is_none() || self.cordon.reasons.any() == was_on {
            // What opens later is opened with whom the cordon lets in.
            return Ok(());
        }
        let mut api = self.connect().await?;
        let everybody: Vec<_> = self.peers.keys().copied().collect();
        if self.sync_all(&mut api, everybody).await? {
            self.end_connections(false)?;
        }
        Ok(())
    }

    /// While newcomers are not taken, those that an Xray of before lets in are who is there.
    pub(super) fn take_as_there(&mut self) {
        if self.cordon.reasons.any() {
            let now = self.started.elapsed().as_secs();
            let users = self.open.values().flat_map(|open| open.users.keys());
            self.cordon.heard(users.copied(), now);
        }
    }

    /// While newcomers are not taken, whoever left some time ago is one.
    pub(super) async fn put_out_who_left(&mut self, api: &mut Api) -> Result<(), Error> {
        self.look_who_is_there();
        if !self.cordon.reasons.any() {
            return Ok(());
        }
        let users = self.open.values().flat_map(|open| open.users.keys());
        let gone = users.filter(|peer| !self.cordon.lets_in(**peer));
        let gone: Vec<_> = gone.copied().collect();
        self.sync_all(api, gone).await.map(drop)
    }

    fn look_who_is_there(&mut self) {
        let now = self.started.elapsed().as_secs();
        self.cordon.heard(self.connections.peers(), now);
        self.cordon.forget_who_left(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerId = PeerId::from_bytes([1; 16]);
    const OTHER: PeerId = PeerId::from_bytes([2; 16]);

    #[test]
    fn whoever_was_there_is_let_in_for_three_minutes_after_they_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut cordon = Cordon::new(folder.path());
        cordon.heard([ONE], 10);
        assert!(cordon.lets_in(OTHER));
        cordon.reasons.set(Reason::Desired, true).unwrap();
        assert!(cordon.lets_in(ONE) && !cordon.lets_in(OTHER));
        cordon.forget_who_left(189);
        assert!(cordon.lets_in(ONE));
        cordon.forget_who_left(190);
        assert!(!cordon.lets_in(ONE));
    }

    #[test]
    fn each_reason_holds_by_itself_and_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made when it is needed");
        let mut cordon = Cordon::new(&folder);
        for reason in Reason::ALL {
            assert!(cordon.reasons.set(reason, true).unwrap());
        }
        assert!(!cordon.reasons.set(Reason::Command, true).unwrap());
        cordon.reasons.set(Reason::Command, false).unwrap();
        let mut again = Cordon::new(&folder);
        assert!(!again.lets_in(ONE));
        again.reasons.set(Reason::Desired, false).unwrap();
        assert!(again.lets_in(ONE) && Cordon::new(&folder).lets_in(ONE));
    }
}
