//! What was counted beside what was billed, to the byte.

use std::collections::HashMap;

use vpnpanel_domain::{NodeId, UserId};

use crate::nodes::Nodes;

/// The truth: what the data planes counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    users: HashMap<UserId, u64>,
    nodes: HashMap<NodeId, u64>,
}

impl Counted {
    /// Asks all data planes. Users that counted nothing are in it as well.
    pub(crate) fn of(fleet: &Nodes) -> Self {
        let mut users: HashMap<_, _> = fleet.users.iter().map(|(user, _)| (*user, 0)).collect();
        let nodes = fleet.nodes.iter();
        let nodes = nodes.map(|node| (node.id, node.engine.counted(&mut users)));
        Self {
            nodes: nodes.collect(),
            users,
        }
    }
}

/// How the bill compares with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) counted: u64,
    pub(crate) billed: u64,
    /// Counted and not billed, user by user: what one lost, another one's surplus does not hide.
    pub(crate) lost: u64,
    /// Billed and not counted.
    pub(crate) doubled: u64,
    pub(crate) users_differ: usize,
    pub(crate) nodes_differ: usize,
    /// What the user with the most counted.
    pub(crate) most: u64,
}

impl Books {
    pub(crate) fn of(
        counted: &Counted,
        billed: &HashMap<UserId, u64>,
        billed_by_node: &HashMap<NodeId, u64>,
    ) -> Self {
        let mut books = Self {
            nodes_differ: differ(&counted.nodes, billed_by_node),
            users_differ: differ(&counted.users, billed),
            ..Self::default()
        };
        for (user, counted) in &counted.users {
            let billed = billed.get(user).copied().unwrap_or(0);
            books.counted += counted;
            books.lost += counted.saturating_sub(billed);
            books.doubled += billed.saturating_sub(*counted);
            books.most = books.most.max(*counted);
        }
        // Also of users that nobody knows.
        books.billed = billed.values().sum();
        books
    }

    pub(crate) fn agree(&self) -> bool {
        self.users_differ == 0 && self.nodes_differ == 0
    }
}

/// Names whose sums differ, those that only one side has included.
fn differ<K: Eq + std::hash::Hash>(counted: &HashMap<K, u64>, billed: &HashMap<K, u64>) -> usize {
    let of = |sums: &HashMap<K, u64>, key| sums.get(key).copied().unwrap_or(0);
    let known = counted
        .iter()
        .filter(|(key, sum)| **sum != of(billed, key))
        .count();
    let unknown = billed
        .iter()
        .filter(|(key, sum)| !counted.contains_key(key) && **sum > 0);
    known + unknown.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserId = UserId::from_bytes([1; 16]);
    const BOB: UserId = UserId::from_bytes([2; 16]);
    const STRANGER: UserId = UserId::from_bytes([3; 16]);
    const NODE: NodeId = NodeId::from_bytes([9; 16]);

    fn counted() -> Counted {
        Counted {
            users: HashMap::from([(ALICE, 100), (BOB, 50)]),
            nodes: HashMap::from([(NODE, 150)]),
        }
    }

    #[test]
    fn books_agree_when_every_user_and_every_node_does() {
        let books = Books::of(
            &counted(),
            &HashMap::from([(ALICE, 100), (BOB, 50)]),
            &HashMap::from([(NODE, 150)]),
        );
        assert!(books.agree());
        assert_eq!((books.counted, books.billed), (150, 150));
        assert_eq!((books.lost, books.doubled, books.most), (0, 0, 100));
    }

    #[test]
    fn one_users_loss_is_not_hidden_by_anothers_surplus() {
        let books = Books::of(
            &counted(),
            &HashMap::from([(ALICE, 99), (BOB, 51)]),
            &HashMap::from([(NODE, 150)]),
        );
        assert!(!books.agree());
        assert_eq!((books.lost, books.doubled, books.users_differ), (1, 1, 2));
    }

    #[test]
    fn bytes_of_a_stranger_or_of_another_node_are_a_difference() {
        let right = HashMap::from([(ALICE, 100), (BOB, 50)]);
        let mut strange = right.clone();
        strange.insert(STRANGER, 1);
        let node = HashMap::from([(NODE, 150)]);
        assert!(!Books::of(&counted(), &strange, &node).agree());
        assert!(!Books::of(&counted(), &right, &HashMap::new()).agree());
    }
}
