//! What is said while it runs (stderr) and in the end (stdout).

use std::fmt;
use std::io::Write as _;

/// Tells how far it is. Nobody is served by a simulation that ends because a terminal went away.
pub(crate) fn tell(words: impl fmt::Display) {
    let _unheard = writeln!(std::io::stderr(), "fleet: {words}");
}

/// A line of the report: a name and what was found.
pub(crate) fn report(name: &str, found: impl fmt::Display) {
    let _unheard = writeln!(std::io::stdout(), "{name:<30} {found}");
}
