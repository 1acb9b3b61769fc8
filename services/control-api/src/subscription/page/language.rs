//! The languages of the page, and which a browser's user reads.

use super::texts::{CHINESE, ENGLISH, PERSIAN, RUSSIAN, Texts};
use crate::Error;

/// A language of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Persian,
    Russian,
    Chinese,
}

impl Language {
    pub(super) const ALL: [Self; 4] = [Self::English, Self::Persian, Self::Russian, Self::Chinese];

    /// The language asked for by name, or the first of those that a browser accepts; else English.
    ///
    /// # Errors
    /// [`Error::Field`] for a name that is none.
    pub(crate) fn choose(name: &str, accepted: &str) -> Result<Self, Error> {
        if !name.is_empty() {
            return Self::of(name)
                .ok_or_else(|| Error::field("lang", "must be one of en, fa, ru, zh"));
        }
        let mut ranges = accepted.split(',');
        let first = ranges.find_map(|range| Self::of(range.split(';').next()?.trim()));
        Ok(first.unwrap_or(Self::English))
    }

    /// Of a tag (RFC 5646), whatever its script and region.
    fn of(tag: &str) -> Option<Self> {
        let language = tag.split('-').next().unwrap_or_default();
        let mut all = Self::ALL.into_iter();
        all.find(|it| it.code().eq_ignore_ascii_case(language))
    }

    /// Its tag.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Persian => "fa",
            Self::Russian => "ru",
            Self::Chinese => "zh",
        }
    }

    pub(super) const fn texts(self) -> &'static Texts {
        match self {
            Self::English => &ENGLISH,
            Self::Persian => &PERSIAN,
            Self::Russian => &RUSSIAN,
            Self::Chinese => &CHINESE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_language_that_there_is_counts() {
        for (accepted, expected) in [
            ("", Language::English),
            ("de-DE,de;q=0.9", Language::English),
            ("de,fa-IR;q=0.9,en;q=0.8", Language::Persian),
            ("RU", Language::Russian),
            ("zh-Hant-TW, en", Language::Chinese),
        ] {
            let chosen = Language::choose("", accepted).unwrap();
            assert_eq!(chosen, expected, "{accepted}");
            assert_eq!(Language::choose("ru", accepted).unwrap(), Language::Russian);
        }
        assert!(Language::choose("de", "fa").is_err());
    }
}
