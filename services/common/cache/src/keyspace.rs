//! What lies where in Redis: the one place that knows. Each concern has a logical database of its
//! own, so that one can be looked at or wiped without the others; a cluster has no logical
//! databases, so keys begin with the name of their concern as well.

/// What Redis is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Concern {
    /// What roles permit.
    Policy,
    /// Credentials that were ended before their time.
    Revocation,
    /// Counts of rate limits.
    Limits,
    /// The stream of signals among replicas.
    Signals,
}

impl Concern {
    /// Every concern, in the order of their databases.
    pub const ALL: [Self; 4] = [Self::Policy, Self::Revocation, Self::Limits, Self::Signals];

    /// The logical database; unused in a cluster.
    pub const fn database(self) -> u8 {
        match self {
            Self::Policy => 0,
            Self::Revocation => 1,
            Self::Limits => 2,
            Self::Signals => 3,
        }
    }

    /// The name in keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Revocation => "revocation",
            Self::Limits => "limits",
            Self::Signals => "signals",
        }
    }

    /// How a key of this concern begins. In a cluster, the braces keep the keys of a concern
    /// together, so that one command can see several of them; limits are each on their own, and
    /// spread.
    pub fn key_prefix(self, installation: &str) -> String {
        match self {
            Self::Limits => format!("{installation}:limits:"),
            _ => format!("{installation}:{{{}}}:", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_concerns_share_a_database_or_a_prefix() {
        for (at, one) in Concern::ALL.iter().enumerate() {
            assert_eq!(usize::from(one.database()), at);
            for other in &Concern::ALL[at + 1..] {
                assert_ne!(one.name(), other.name());
                assert!(!one.key_prefix("x").starts_with(&other.key_prefix("x")));
            }
        }
    }
}
