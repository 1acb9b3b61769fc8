//! Allowances of limited users: how far their counters may go. Xray holds none itself, so a user
//! is stopped at the first reading that is beyond.

use std::collections::{BTreeSet, HashMap};

use vpnpanel_domain::{PeerId, UserId};

/// Counters of each peer, (from, to) the subscriber.
pub(super) type Counters = HashMap<PeerId, (u64, u64)>;

#[derive(Debug, Default)]
pub(super) struct Credit {
    /// The user of each peer, also of removed ones: what they used stays used.
    owners: HashMap<PeerId, UserId>,
    /// Bytes of each user at the last reading that was returned.
    used: HashMap<UserId, u64>,
    /// Where each user's counters must stop.
    ends: HashMap<UserId, u64>,
}

impl Credit {
    pub(super) fn own(&mut self, peer: PeerId, user: UserId) {
        self.owners.insert(peer, user);
    }

    /// Lets a user pass so many bytes beyond the last reading.
    pub(super) fn set(&mut self, user: UserId, remainder: u64) {
        let used = self.used.get(&user).copied().unwrap_or(0);
        self.ends.insert(user, used.saturating_add(remainder));
    }

    /// Whether a user was ever given an allowance.
    pub(super) fn knows(&self, user: UserId) -> bool {
        self.ends.contains_key(&user)
    }

    /// Takes a reading; the users with an allowance who have used it up.
    pub(super) fn take(&mut self, counters: &Counters) -> BTreeSet<UserId> {
        let mut used: HashMap<UserId, u64> = HashMap::new();
        for (peer, (up, down)) in counters {
            if let Some(user) = self.owners.get(peer) {
                let sum = used.entry(*user).or_default();
                *sum = sum.saturating_add(*up).saturating_add(*down);
            }
        }
        self.used = used;
        self.exhausted()
    }

    /// The users whose allowance is used up.
    pub(super) fn exhausted(&self) -> BTreeSet<UserId> {
        let users = self.ends.keys().copied();
        users.filter(|user| !self.passes(*user)).collect()
    }

    /// Whether a limited user may pass anything more.
    pub(super) fn passes(&self, user: UserId) -> bool {
        let used = self.used.get(&user).copied().unwrap_or(0);
        self.ends.get(&user).is_some_and(|end| used < *end)
    }

    /// Counters start anew: what remained remains.
    pub(super) fn restart(&mut self) {
        for (user, end) in &mut self.ends {
            *end = end.saturating_sub(self.used.get(user).copied().unwrap_or(0));
        }
        self.used.clear();
    }
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
}
