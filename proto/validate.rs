//! Checks of what a request holds, as its fields declare (`buf.validate`). The implementations
//! are generated; this module holds the trait, the violations and the checks they call.

use std::fmt::Write;

/// Most violations that are reported of one message.
const MAX_VIOLATIONS: usize = 20;

/// A field that does not hold what it declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `user.group_ids[2]`.
    pub field: String,
    /// What was expected.
    pub message: String,
}

/// The violations of one message, bounded.
pub type Violations = Vec<Violation>;

/// A message whose fields declare what they may hold.
pub trait Validate {
    /// Adds the violations below `at` to `out`.
    fn collect(&self, at: &mut FieldPath, out: &mut Violations);

    /// Every violation, or none.
    fn validate(&self) -> Result<(), Violations> {
        let mut out = Violations::new();
        self.collect(&mut FieldPath::default(), &mut out);
        if out.is_empty() { Ok(()) } else { Err(out) }
    }
}

/// Where in a message a check stands.
#[derive(Debug, Default)]
pub struct FieldPath(Vec<Step>);

#[derive(Debug)]
enum Step {
    Field(&'static str),
    Item(usize),
}

impl FieldPath {
    fn within(&mut self, field: &'static str, check: impl FnOnce(&mut Self)) {
        self.0.push(Step::Field(field));
        check(self);
        self.0.pop();
    }

    fn item(&mut self, index: usize, check: impl FnOnce(&mut Self)) {
        self.0.push(Step::Item(index));
        check(self);
        self.0.pop();
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Item(index) => {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "[{index}]");
                }
            }
        }
        text
    }
}

impl Validate for prost_types::Timestamp {
    fn collect(&self, at: &mut FieldPath, out: &mut Violations) {
        // RFC 3339 years 0001 to 9999, as protojson can print them.
        let in_range = (-62_135_596_800..=253_402_300_799).contains(&self.seconds)
            && (0..1_000_000_000).contains(&self.nanos);
        check::that(
            in_range,
            "must be a time of the years 0001 to 9999",
            at,
            out,
        );
    }
}

impl Validate for prost_types::Duration {
    fn collect(&self, at: &mut FieldPath, out: &mut Violations) {
        let in_range = self.seconds.unsigned_abs() <= 315_576_000_000
            && self.nanos.unsigned_abs() < 1_000_000_000
            && (self.seconds == 0 || self.nanos == 0 || (self.seconds < 0) == (self.nanos < 0));
        check::that(
            in_range,
            "must be a duration of at most 10,000 years",
            at,
            out,
        );
    }
}

impl Validate for prost_types::FieldMask {
    fn collect(&self, at: &mut FieldPath, out: &mut Violations) {
        check::that(
            self.paths.len() <= 100 && self.paths.iter().all(|p| p.len() <= 200),
            "must be at most 100 paths of at most 200 characters",
            at,
            out,
        );
    }
}

/// The generated implementations.
#[allow(unused_parens, clippy::all)]
mod generated {
    use super::{FieldPath, Validate, Violations, check};

    include!(concat!(env!("OUT_DIR"), "/validation.rs"));
}

/// The checks that generated code calls.
#[allow(dead_code, reason = "which of them are called depends on the contract")]
mod check {
    use std::{collections::HashSet, hash::Hash};

    use super::{FieldPath, MAX_VIOLATIONS, Violation, Violations};

    /// A pattern that a text must match.
    pub(super) struct Pattern {
        source: &'static str,
        regex: Option<regex_lite::Regex>,
    }

    impl Pattern {
        pub(super) fn new(source: &'static str) -> Self {
            // A test compiles every pattern of the contract; one that did not compile would
            // match nothing, which refuses the value.
            Self {
                source,
                regex: regex_lite::Regex::new(source).ok(),
            }
        }
    }

    pub(super) fn that(
        holds: bool,
        message: impl Into<String>,
        at: &FieldPath,
        out: &mut Violations,
    ) {
        if !holds && out.len() < MAX_VIOLATIONS {
            out.push(Violation {
                field: at.text(),
                message: message.into(),
            });
        }
    }

    pub(super) fn required(set: bool, at: &FieldPath, out: &mut Violations) {
        that(set, "is required", at, out);
    }

    pub(super) fn min_chars(text: &str, min: usize, at: &FieldPath, out: &mut Violations) {
        that(
            text.chars().count() >= min,
            format!("must have at least {min} characters"),
            at,
            out,
        );
    }

    pub(super) fn max_chars(text: &str, max: usize, at: &FieldPath, out: &mut Violations) {
        that(
            text.chars().count() <= max,
            format!("must have at most {max} characters"),
            at,
            out,
        );
    }

    /// What is no text to PostgreSQL is none here: otherwise the database would refuse the
    /// statement, which is an error of ours.
    pub(super) fn no_nul(text: &str, at: &FieldPath, out: &mut Violations) {
        that(
            !text.contains('\0'),
            "must not hold NUL characters",
            at,
            out,
        );
    }

    pub(super) fn min_len(len: usize, min: usize, at: &FieldPath, out: &mut Violations) {
        that(
            len >= min,
            format!("must have at least {min} items or bytes"),
            at,
            out,
        );
    }

    pub(super) fn max_len(len: usize, max: usize, at: &FieldPath, out: &mut Violations) {
        that(
            len <= max,
            format!("must have at most {max} items or bytes"),
            at,
            out,
        );
    }

    pub(super) fn exact_len(len: usize, exact: usize, at: &FieldPath, out: &mut Violations) {
        that(
            len == exact,
            format!("must have exactly {exact} bytes"),
            at,
            out,
        );
    }

    pub(super) fn gte<T: PartialOrd + std::fmt::Display>(
        value: T,
        min: T,
        at: &FieldPath,
        out: &mut Violations,
    ) {
        that(value >= min, format!("must be at least {min}"), at, out);
    }

    pub(super) fn lte<T: PartialOrd + std::fmt::Display>(
        value: T,
        max: T,
        at: &FieldPath,
        out: &mut Violations,
    ) {
        that(value <= max, format!("must be at most {max}"), at, out);
    }

    pub(super) fn uuid(text: &str, at: &FieldPath, out: &mut Violations) {
        let dashes = [8, 13, 18, 23];
        let holds = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| {
                if dashes.contains(&i) {
                    b == b'-'
                } else {
                    b.is_ascii_hexdigit()
                }
            });
        that(holds, "must be a UUID", at, out);
    }

    pub(super) fn email(text: &str, at: &FieldPath, out: &mut Violations) {
        let holds = text.split_once('@').is_some_and(|(local, host)| {
            !local.is_empty() && !host.is_empty() && !host.contains('@')
        }) && text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        that(holds, "must be an e-mail address", at, out);
    }

    pub(super) fn pattern(text: &str, pattern: &Pattern, at: &FieldPath, out: &mut Violations) {
        let holds = pattern
            .regex
            .as_ref()
            .is_some_and(|regex| regex.is_match(text));
        that(holds, format!("must match {}", pattern.source), at, out);
    }

    pub(super) fn defined(known: bool, at: &FieldPath, out: &mut Violations) {
        that(known, "is not a value of the enum", at, out);
    }

    pub(super) fn unique<T: Eq + Hash>(items: &[T], at: &FieldPath, out: &mut Violations) {
        let mut seen = HashSet::with_capacity(items.len());
        that(
            items.iter().all(|item| seen.insert(item)),
            "must not repeat items",
            at,
            out,
        );
    }

    pub(super) fn duration_gte(
        value: Option<&prost_types::Duration>,
        seconds: i64,
        at: &FieldPath,
        out: &mut Violations,
    ) {
        let holds =
            value.is_none_or(|d| d.seconds >= seconds && (d.nanos >= 0 || d.seconds > seconds));
        that(holds, format!("must be at least {seconds} s"), at, out);
    }

    pub(super) fn duration_lte(
        value: Option<&prost_types::Duration>,
        seconds: i64,
        at: &FieldPath,
        out: &mut Violations,
    ) {
        let holds =
            value.is_none_or(|d| d.seconds < seconds || (d.seconds == seconds && d.nanos <= 0));
        that(holds, format!("must be at most {seconds} s"), at, out);
    }
}
