//! Whether a password is good enough to be chosen: its length, and how many guesses it would take
//! by the estimate of zxcvbn, which knows common passwords, words, names, dates and keyboard walks.

use secrecy::{ExposeSecret, SecretString};
use zxcvbn::{Score, zxcvbn};

use crate::AuthError;

/// Shortest password, in characters.
pub const MIN_CHARS: usize = 10;
/// Longest password, in characters.
pub const MAX_CHARS: usize = 256;
/// "Safely unguessable: moderate protection from an offline attack": more than 10⁸ guesses.
const REQUIRED: Score = Score::Three;

/// Why a password may not be chosen; the words follow the name of its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// Too few characters.
    #[error("must have at least {MIN_CHARS} characters")]
    TooShort,
    /// Too many characters.
    #[error("must have at most {MAX_CHARS} characters")]
    TooLong,
    /// Too few guesses.
    #[error("is too easily guessed: {0}")]
    Guessable(String),
}

/// Why a password may not be chosen for the account of `email`; `None` when it may. The estimate
/// takes milliseconds, on a thread of its own.
///
/// # Errors
/// [`AuthError::Interrupted`].
pub async fn judge(password: SecretString, email: String) -> Result<Option<Weakness>, AuthError> {
    let judged = move || check(password.expose_secret(), &email).err();
    tokio::task::spawn_blocking(judged)
        .await
        .map_err(|_| AuthError::Interrupted)
}

/// Refuses a password that is easily guessed by somebody who knows the account's `email`.
///
/// # Errors
/// Why it is refused.
pub fn check(password: &str, email: &str) -> Result<(), Weakness> {
    let length = password.chars().count();
    if length < MIN_CHARS {
        return Err(Weakness::TooShort);
    }
    if length > MAX_CHARS {
        return Err(Weakness::TooLong);
    }
    // The whole address, both sides of it, and their words.
    let known: Vec<&str> = std::iter::once(email)
        .chain(email.split('@'))
        .chain(email.split(['@', '.', '+', '-', '_']))
        .filter(|part| part.len() > 2)
        .take(20)
        .collect();
    let estimate = zxcvbn(password, &known);
    if estimate.score() >= REQUIRED {
        return Ok(());
    }
    let feedback = estimate.feedback();
    let warning = feedback.and_then(|f| f.warning()).map(|w| w.to_string());
    let suggestion = feedback.and_then(|f| f.suggestions().first().map(ToString::to_string));
    let words = [warning, suggestion].into_iter().flatten();
    let words = words.collect::<Vec<_>>().join(" ");
    Err(Weakness::Guessable(if words.is_empty() {
        "use more and less common words".to_owned()
    } else {
        words
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_easily_guessed_is_refused_with_a_reason() {
        for password in [
            "short",
            "password123456",
            "qwertyuiop123",
            "aaaaaaaaaaaaaaa",
            "1234567890123",
            "iloveyou2024",
            "ada.lovelace1",
            "Lovelace1815",
        ] {
            let refused = check(password, "ada.lovelace@example.com").expect_err(password);
            assert!(refused.to_string().len() > 20, "{password}: {refused}");
        }
        assert_eq!(check(&"é".repeat(9), "a@b"), Err(Weakness::TooShort));
        assert_eq!(check(&"ab1".repeat(100), "a@b"), Err(Weakness::TooLong));
    }

    #[test]
    fn phrases_and_random_characters_are_taken() {
        for password in [
            "correct horse battery staple",
            "tr0ub4dor &3 rowing lamp",
            "kX9vQ2-mWp7z",
            "Käsekuchen mit Hirschfett",
            &"zq8-Wv!".repeat(30),
        ] {
            assert_eq!(check(password, "ada@example.com"), Ok(()), "{password}");
        }
    }
}
