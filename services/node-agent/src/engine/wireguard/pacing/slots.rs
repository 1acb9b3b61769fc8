//! Who has a class, and which: users with a limit that have traffic, as many as there may be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use vpnpanel_domain::UserId;

/// A user without traffic for so long gives its class up.
const IDLE: Duration = Duration::from_secs(60);
/// A class that nobody is put into any more stays so long, for what it still holds back.
const GRACE: Duration = Duration::from_secs(1);
/// Making classes takes time, and the counters wait meanwhile: the rest has its turn next.
const NEW_AT_ONCE: usize = 500;

#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    users: HashMap<UserId, Slot>,
    /// Numbers of classes that are somebody's, or were a moment ago.
    taken: BTreeSet<u16>,
    cooling: Vec<(u16, Instant)>,
    /// Users that had to go without.
    left_out: usize,
}

#[derive(Debug)]
struct Slot {
    minor: u16,
    active: Instant,
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            users: HashMap::new(),
            taken: BTreeSet::new(),
            cooling: Vec::new(),
            left_out: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Users that should have a class and that there was none for.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    pub(super) fn of(&self, user: UserId) -> Option<u16> {
        self.users.get(&user).map(|slot| slot.minor)
    }

    /// Whether a class is kept for what is in it.
    pub(super) fn is_cooling(&self, minor: u16) -> bool {
        self.cooling.iter().any(|(cooling, _)| *cooling == minor)
    }

    /// Takes over a class that a user has already.
    pub(super) fn adopt(&mut self, user: UserId, minor: u16, now: Instant) {
        if minor == 0 || self.users.contains_key(&user) || self.users.len() >= self.most {
            return;
        }
        if self.taken.insert(minor) {
            self.users.insert(user, Slot { minor, active: now });
        }
    }

    /// Gives classes to users that have traffic, and takes them from those that have none or are
    /// not limited any more.
    pub(super) fn update(
        &mut self,
        is_limited: impl Fn(UserId) -> bool,
        active: &HashSet<UserId>,
        now: Instant,
    ) {
        self.cooling.retain(|(minor, since)| {
            let stays = now.duration_since(*since) < GRACE;
            if !stays {
                self.taken.remove(minor);
            }
            stays
        });
        let cooling = &mut self.cooling;
        self.users.retain(|user, slot| {
            if active.contains(user) {
                slot.active = now;
            }
            let stays = is_limited(*user) && now.duration_since(slot.active) < IDLE;
            if !stays {
                cooling.push((slot.minor, now));
            }
            stays
        });
        let new = active
            .iter()
            .filter(|user| is_limited(**user) && !self.users.contains_key(user));
        let mut new: Vec<UserId> = new.copied().collect();
        new.sort_unstable();
        let room = self.most.saturating_sub(self.taken.len());
        self.left_out = new.len().saturating_sub(room);
        let mut free = (1..=u16::MAX).filter(|minor| !self.taken.contains(minor));
        let given: Vec<_> = new
            .into_iter()
            .take(room.min(NEW_AT_ONCE))
            .map_while(|user| Some((user, free.next()?)))
            .collect();
        for (user, minor) in given {
            self.taken.insert(minor);
            self.users.insert(user, Slot { minor, active: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u16) -> UserId {
        UserId::from_parts(i64::from(n), [0; 10])
    }

    fn all(users: impl IntoIterator<Item = u16>) -> HashSet<UserId> {
        users.into_iter().map(user).collect()
    }

    #[test]
    fn a_class_comes_with_traffic_and_goes_without() {
        let (mut slots, start) = (Slots::new(10), Instant::now());
        slots.update(|_| true, &all([]), start);
        assert!(slots.is_empty());
        slots.update(|_| true, &all([1]), start);
        assert_eq!(slots.of(user(1)), Some(1));
        slots.update(|_| true, &all([]), start + IDLE / 2);
        assert_eq!(slots.of(user(1)), Some(1));
        slots.update(|_| true, &all([1]), start + IDLE / 2);
        slots.update(|_| true, &all([]), start + IDLE);
        assert_eq!(slots.of(user(1)), Some(1));
        slots.update(|_| true, &all([]), start + IDLE * 2);
        assert_eq!(slots.of(user(1)), None);
        assert!(slots.is_cooling(1));
        slots.update(|_| true, &all([]), start + IDLE * 2 + GRACE);
        assert!(slots.is_empty());
    }

    #[test]
    fn a_class_is_not_given_on_before_it_is_empty() {
        let (mut slots, start) = (Slots::new(2), Instant::now());
        slots.update(|_| true, &all([1]), start);
        slots.update(|it| it != user(1), &all([1, 2]), start);
        assert_eq!((slots.of(user(1)), slots.of(user(2))), (None, Some(2)));
        slots.update(|it| it != user(1), &all([2, 3]), start + GRACE / 2);
        assert_eq!((slots.of(user(3)), slots.left_out()), (None, 1));
        slots.update(|it| it != user(1), &all([2, 3]), start + GRACE);
        assert_eq!((slots.of(user(3)), slots.left_out()), (Some(1), 0));
    }

    #[test]
    fn many_have_their_turn_one_after_the_other() {
        let (mut slots, start) = (Slots::new(600), Instant::now());
        let active = all(0..700);
        slots.update(|_| true, &active, start);
        assert_eq!(slots.users.len(), NEW_AT_ONCE);
        slots.update(|_| true, &active, start);
        assert_eq!((slots.users.len(), slots.left_out()), (600, 100));
    }

    #[test]
    fn a_class_that_is_there_is_taken_over_once() {
        let (mut slots, now) = (Slots::new(10), Instant::now());
        slots.adopt(user(1), 7, now);
        slots.adopt(user(1), 8, now);
        slots.adopt(user(2), 7, now);
        assert_eq!((slots.of(user(1)), slots.of(user(2))), (Some(7), None));
    }
}
