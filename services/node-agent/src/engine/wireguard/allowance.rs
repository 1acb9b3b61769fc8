//! From a user's allowance to the limit of the kernel's quota.
//!
//! A quota of nf_tables counts what passes, and also what it drops once it is over; the billing
//! counters count only what passes. So a quota's use is the sum of the user's counters plus an
//! offset, which grows only while packets are dropped. The limit to program is
//!
//! ```text
//! limit = sum of counters at which to cut + offset
//! ```
//!
//! and is the same at every reading of one allowance: nothing has to be timed. The quotas are
//! read before the counters, so an offset is never taken too large, and a limit never too high;
//! the largest offset seen is the best one. A quota that is over tells its limit for its use:
//! how much it dropped shows only once its limit is higher, so limits follow what readings teach.

use std::collections::{BTreeSet, HashMap, HashSet};

use vpnpanel_domain::{PeerId, UserId};

use crate::nft::Counted;

/// Bytes that the kernel lets pass beyond an allowance, so that the packet that reaches it
/// passes and the allowance is seen to be used up. As large as the largest packet that the
/// kernel aggregates.
pub const QUOTA_SLACK: u64 = 64 << 10;

/// The kernel takes no more.
const NO_LIMIT: u64 = i64::MAX.cast_unsigned();

/// The users that have a limit, and what is known of their quotas.
#[derive(Debug)]
pub(super) struct Allowances {
    /// The kernel cuts; otherwise whoever reads the counters does.
    in_kernel: bool,
    peers: HashMap<UserId, BTreeSet<PeerId>>,
    /// Sums of the user's counters at which the user is cut; none for those who may pass nothing.
    cuts: HashMap<UserId, i128>,
    offsets: HashMap<UserId, i128>,
    /// Users whose quota was over at the last reading.
    over: HashSet<UserId>,
}

impl Allowances {
    pub(super) fn new(in_kernel: bool) -> Self {
        Self {
            in_kernel,
            peers: HashMap::new(),
            cuts: HashMap::new(),
            offsets: HashMap::new(),
            over: HashSet::new(),
        }
    }

    /// Notes which user a peer belongs to now, if any.
    pub(super) fn set_owner(&mut self, peer: PeerId, before: Option<UserId>, now: Option<UserId>) {
        if before == now {
            return;
        }
        for user in [before, now].into_iter().flatten() {
            // The sum is of other counters from now on.
            self.offsets.remove(&user);
            self.cuts.remove(&user);
        }
        if let Some(user) = before
            && let Some(peers) = self.peers.get_mut(&user)
        {
            peers.remove(&peer);
            if peers.is_empty() {
                self.peers.remove(&user);
            }
        }
        if let Some(user) = now {
            self.peers.entry(user).or_default().insert(peer);
        }
    }

    /// Learns from a reading.
    pub(super) fn observe(&mut self, counted: &Counted) {
        self.over.clear();
        for (user, (limit, used)) in &counted.quotas {
            let offset = i128::from(*used) - self.sum(*user, &counted.peers);
            let known = self.offsets.entry(*user).or_insert(offset);
            *known = offset.max(*known);
            if used >= limit {
                self.over.insert(*user);
            }
        }
    }

    /// Whether a reading is needed before a limit of this user can be computed.
    pub(super) fn needs_reading(&self, user: UserId) -> bool {
        !self.offsets.contains_key(&user)
    }

    /// Whether the user's quota dropped what no reading has shown yet.
    pub(super) fn is_over(&self, user: UserId) -> bool {
        self.over.contains(&user)
    }

    /// The counters started anew: what was learnt of the old ones is void.
    pub(super) fn forget_readings(&mut self) {
        self.offsets.clear();
        self.cuts.clear();
        self.over.clear();
    }

    /// Whether it is a limited user.
    pub(super) fn contains(&self, user: UserId) -> bool {
        self.peers.contains_key(&user)
    }

    /// Notes what a user may pass, counted from the last reading handed out.
    pub(super) fn allow(
        &mut self,
        user: UserId,
        last: &HashMap<PeerId, (u64, u64)>,
        remainder: u64,
    ) {
        if remainder == 0 {
            self.cuts.remove(&user);
        } else {
            let cut = self.sum(user, last) + i128::from(remainder);
            self.cuts.insert(user, cut);
        }
    }

    /// The limit to program.
    pub(super) fn limit(&self, user: UserId) -> u64 {
        let Some(cut) = self.cuts.get(&user) else {
            return 0;
        };
        if !self.in_kernel {
            return NO_LIMIT;
        }
        let offset = self.offsets.get(&user).copied().unwrap_or(0);
        let limit = cut + offset + i128::from(QUOTA_SLACK);
        u64::try_from(limit.clamp(0, i128::from(NO_LIMIT))).unwrap_or(0)
    }

    /// The limits of all who may pass something, for comparison with what is programmed.
    pub(super) fn limits(&self) -> impl Iterator<Item = (UserId, u64)> {
        self.cuts.keys().map(|user| (*user, self.limit(*user)))
    }

    fn sum(&self, user: UserId, counters: &HashMap<PeerId, (u64, u64)>) -> i128 {
        self.peers
            .get(&user)
            .into_iter()
            .flatten()
            .filter_map(|peer| counters.get(peer))
            .map(|(up, down)| i128::from(*up) + i128::from(*down))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId::from_bytes([1; 16]);
    const PHONE: PeerId = PeerId::from_bytes([2; 16]);
    const LAPTOP: PeerId = PeerId::from_bytes([3; 16]);

    fn counted(used: u64, phone: u64, laptop: u64) -> Counted {
        Counted {
            peers: HashMap::from([(PHONE, (0, phone)), (LAPTOP, (laptop, 0))]),
            quotas: HashMap::from([(USER, (u64::MAX, used))]),
        }
    }

    fn allowances() -> Allowances {
        let mut allowances = Allowances::new(true);
        allowances.set_owner(PHONE, None, Some(USER));
        allowances.set_owner(LAPTOP, None, Some(USER));
        allowances
    }

    /// The limit for a remainder counted from a reading.
    fn limit_at(allowances: &mut Allowances, reading: &Counted, remainder: u64) -> u64 {
        allowances.allow(USER, &reading.peers, remainder);
        allowances.limit(USER)
    }

    #[test]
    fn the_limit_of_an_allowance_is_the_same_at_every_reading() {
        let mut allowances = allowances();
        let first = counted(300, 200, 100);
        allowances.observe(&first);
        let limit = limit_at(&mut allowances, &first, 1_000);
        assert_eq!(limit, 1_300 + QUOTA_SLACK);
        let later = counted(800, 300, 500);
        allowances.observe(&later);
        assert_eq!(limit_at(&mut allowances, &later, 500), limit);
    }

    #[test]
    fn dropped_bytes_do_not_eat_the_next_allowance() {
        let mut allowances = allowances();
        allowances.observe(&counted(300, 200, 100));
        let frozen = counted(5_300, 200, 100);
        allowances.observe(&frozen);
        assert_eq!(limit_at(&mut allowances, &frozen, 10), 5_310 + QUOTA_SLACK);
    }

    #[test]
    fn what_an_over_quota_dropped_is_made_up_for_once_it_shows() {
        let mut allowances = allowances();
        allowances.observe(&counted(300, 200, 100));
        let over = Counted {
            quotas: HashMap::from([(USER, (1_300, 1_300))]),
            ..counted(0, 1_200, 100)
        };
        allowances.observe(&over);
        assert!(allowances.is_over(USER));
        // It dropped 5,000 bytes, and says nothing of them until its limit is higher.
        assert_eq!(
            limit_at(&mut allowances, &over, 10_000),
            11_300 + QUOTA_SLACK
        );
        let shown = Counted {
            quotas: HashMap::from([(USER, (11_300 + QUOTA_SLACK, 6_300))]),
            ..counted(0, 1_200, 100)
        };
        allowances.observe(&shown);
        assert!(!allowances.is_over(USER));
        assert_eq!(
            allowances.limits().collect::<Vec<_>>(),
            [(USER, 16_300 + QUOTA_SLACK)]
        );
    }

    #[test]
    fn traffic_between_the_two_readings_never_raises_the_limit() {
        let mut allowances = allowances();
        // 900 bytes passed after the quota was read and before the counters were.
        let skewed = counted(300, 1_000, 200);
        allowances.observe(&skewed);
        assert_eq!(
            limit_at(&mut allowances, &skewed, 1_000),
            1_300 + QUOTA_SLACK
        );
    }

    #[test]
    fn nothing_left_is_a_limit_of_nothing() {
        let mut allowances = allowances();
        let reading = counted(300, 200, 100);
        allowances.observe(&reading);
        assert_eq!(limit_at(&mut allowances, &reading, 0), 0);
    }

    #[test]
    fn a_changed_set_of_devices_needs_a_new_reading() {
        let mut allowances = allowances();
        allowances.observe(&counted(300, 200, 100));
        assert!(!allowances.needs_reading(USER));
        allowances.set_owner(LAPTOP, Some(USER), None);
        assert!(allowances.needs_reading(USER));
        let reading = counted(300, 200, 100);
        allowances.observe(&reading);
        assert_eq!(limit_at(&mut allowances, &reading, 50), 350 + QUOTA_SLACK);
    }
}
