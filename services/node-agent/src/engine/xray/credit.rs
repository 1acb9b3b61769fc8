//! Allowances of limited users: how far their counters may go. Xray holds none itself, so a user
//! is stopped at the first reading that is beyond.

use std::collections::{BTreeSet, HashMap};

use vpnpanel_domain::{PeerId, UserId};

/// Counters of each peer, (from, to) the subscriber.
pub(super) type Counters = HashMap<PeerId, (u64, u64)>;

#[derive(Debug, Default)]
pub(super) struct Credit {
    owners: HashMap<PeerId, UserId>,
    /// The peers of each user, also removed ones: what they used stays used.
    devices: HashMap<UserId, BTreeSet<PeerId>>,
    /// The last reading.
    last: Counters,
    /// Where each user's counters must stop.
    ends: HashMap<UserId, u64>,
}

impl Credit {
    /// Takes note of whose a peer is. What it had counted before is no part of an allowance.
    pub(super) fn own(&mut self, peer: PeerId, user: UserId) {
        if self.owners.insert(peer, user).is_some() {
            return;
        }
        self.devices.entry(user).or_default().insert(peer);
        let before = bytes(&self.last, peer);
        if let Some(end) = self.ends.get_mut(&user) {
            *end = end.saturating_add(before);
        }
    }

    /// Lets a user pass so many bytes beyond the last reading.
    pub(super) fn set(&mut self, user: UserId, remainder: u64) {
        self.ends
            .insert(user, self.used(user).saturating_add(remainder));
    }

    /// Whether a user was ever given an allowance.
    pub(super) fn knows(&self, user: UserId) -> bool {
        self.ends.contains_key(&user)
    }

    /// Takes a reading; the users with an allowance who have used it up.
    pub(super) fn take(&mut self, counters: &Counters) -> BTreeSet<UserId> {
        self.last.clone_from(counters);
        let users = self.ends.keys().copied();
        users.filter(|user| !self.passes(*user)).collect()
    }

    /// Whether a limited user may pass anything more.
    pub(super) fn passes(&self, user: UserId) -> bool {
        self.ends
            .get(&user)
            .is_some_and(|end| self.used(user) < *end)
    }

    /// Counters start anew: what remained remains.
    pub(super) fn restart(&mut self) {
        let used: HashMap<_, _> = self.ends.keys().map(|u| (*u, self.used(*u))).collect();
        for (user, end) in &mut self.ends {
            *end = end.saturating_sub(used.get(user).copied().unwrap_or(0));
        }
        self.last.clear();
    }

    fn used(&self, user: UserId) -> u64 {
        let devices = self.devices.get(&user).into_iter().flatten();
        devices.fold(0, |sum: u64, peer| {
            sum.saturating_add(bytes(&self.last, *peer))
        })
    }
}

fn bytes(counters: &Counters, peer: PeerId) -> u64 {
    let (up, down) = counters.get(&peer).copied().unwrap_or_default();
    up.saturating_add(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId::from_bytes([1; 16]);
    const PHONE: PeerId = PeerId::from_bytes([2; 16]);
    const LAPTOP: PeerId = PeerId::from_bytes([3; 16]);

    #[test]
    fn devices_share_an_allowance_and_a_removed_one_keeps_what_it_used() {
        let mut credit = Credit::default();
        credit.own(PHONE, USER);
        credit.own(LAPTOP, USER);
        assert!(!credit.passes(USER));
        credit.set(USER, 100);
        assert!(credit.passes(USER));
        assert!(credit.take(&HashMap::from([(PHONE, (30, 30))])).is_empty());
        let counters = HashMap::from([(PHONE, (30, 30)), (LAPTOP, (0, 40))]);
        assert_eq!(credit.take(&counters), BTreeSet::from([USER]));
        credit.set(USER, 1);
        assert!(credit.passes(USER));
    }

    #[test]
    fn what_remained_remains_when_counters_start_anew() {
        let mut credit = Credit::default();
        credit.own(PHONE, USER);
        credit.set(USER, 100);
        credit.take(&HashMap::from([(PHONE, (0, 60))]));
        credit.restart();
        assert!(credit.take(&HashMap::from([(PHONE, (0, 39))])).is_empty());
        assert!(!credit.take(&HashMap::from([(PHONE, (0, 40))])).is_empty());
    }

    #[test]
    fn what_an_earlier_agent_saw_counted_is_no_part_of_an_allowance() {
        let mut credit = Credit::default();
        credit.take(&HashMap::from([(PHONE, (0, 500)), (LAPTOP, (0, 70))]));
        credit.own(PHONE, USER);
        credit.set(USER, 100);
        credit.own(LAPTOP, USER);
        let counters = HashMap::from([(PHONE, (0, 599)), (LAPTOP, (0, 70))]);
        assert!(credit.take(&counters).is_empty());
        let counters = HashMap::from([(PHONE, (0, 600)), (LAPTOP, (0, 70))]);
        assert_eq!(credit.take(&counters), BTreeSet::from([USER]));
    }
}
