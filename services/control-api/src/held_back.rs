//! Sign-ins that a limit keeps back, on their way into the audit log. A limit spares the database:
//! what it keeps back must not cost a transaction each. The first of a minute is noted, for each
//! account and network or, where the address is what is limited, for each network; at most 60 of a
//! minute, in each process.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use vpnpanel_auth::limits::Limit;

const MINUTE_MS: i64 = 60_000;

/// Most that are noted in a minute: as many as wrong sign-ins that are told apart.
const MOST: usize = 60;

/// What was noted in this minute.
#[derive(Debug, Default)]
pub(crate) struct HeldBack(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    noted: HashSet<(String, String)>,
}

impl HeldBack {
    /// Whether a sign-in that `limit` keeps back is to be noted.
    pub(crate) fn is_news(&self, limit: Limit, email: &str, network: &str, now_ms: i64) -> bool {
        let email = match limit {
            Limit::SignInAddress => String::new(),
            _ => email.trim().to_lowercase(),
        };
        // A panic while the lock was held leaves a set that is right all the same.
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now_ms.div_euclid(MINUTE_MS);
        if minute.number != number {
            *minute = Minute {
                number,
                noted: HashSet::new(),
            };
        }
        minute.noted.len() < MOST && minute.noted.insert((email, network.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit::SignInAccount;

    #[test]
    fn the_first_of_a_minute_is_news_for_each_account_and_network() {
        let held_back = HeldBack::default();
        let is_news = |email, network, at| held_back.is_news(LIMIT, email, network, at);
        assert!(is_news("a@example.com", "192.0.2.0/24", 0));
        assert!(!is_news(" A@example.com", "192.0.2.0/24", 59_999));
        assert!(is_news("a@example.com", "198.51.100.0/24", 59_999));
        assert!(is_news("b@example.com", "192.0.2.0/24", 59_999));
        assert!(is_news("a@example.com", "192.0.2.0/24", 60_000));
    }

    #[test]
    fn an_address_that_tries_many_accounts_is_news_once() {
        let held_back = HeldBack::default();
        let tries = (0..10).filter(|n| {
            let email = format!("{n}@example.com");
            held_back.is_news(Limit::SignInAddress, &email, "192.0.2.0/24", 0)
        });
        assert_eq!(tries.count(), 1);
    }

    #[test]
    fn a_flood_from_everywhere_is_noted_in_bounded_number() {
        let held_back = HeldBack::default();
        let tries = (0..1_000).filter(|n| {
            let email = format!("{n}@example.com");
            held_back.is_news(LIMIT, &email, "192.0.2.0/24", 0)
        });
        assert_eq!(tries.count(), MOST);
    }
}
