//! What is fuzzed: everything that reads what strangers send, most of it before anybody knows who
//! they are. A target takes any bytes, says whether they were accepted, and panics when something
//! is not as it should be; that is how a fuzzer, and the test that replays the corpora, learn of
//! it. docs/fuzzing.md says how to run them.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is what a target has to say"
)]

mod access_token;
mod certificate;
mod frame;
mod rest;
mod template;
mod token;

pub use access_token::test_key;

/// Something to be fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its program, and of the folder of its corpus.
    pub name: &'static str,
    /// Takes any bytes, and says whether they were accepted.
    pub run: fn(&[u8]) -> bool,
}

/// Everything that is fuzzed, by name.
pub const TARGETS: [Target; 12] = [
    target("access_tokens", access_token::access_tokens),
    target("answers", rest::answers),
    target("certificate_requests", certificate::requests),
    target("certificates", certificate::certificates),
    target("desired_states", frame::desired_states),
    target("frames_down", frame::frames_down),
    target("frames_up", frame::frames_up),
    target("pem", certificate::pem),
    target("requests", rest::requests),
    target("templates", template::templates),
    target("tokens", token::tokens),
    target("usage", frame::usage),
];

/// Runs the target of a name.
///
/// # Panics
/// When there is none, and when the target finds something.
pub fn run(name: &str, data: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(data)
}

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run }
}

/// The text of an input, without the newline that editors leave at the end of a file.
fn line(data: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(data).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(text))
}

/// What the asynchronous parts run on: nothing here waits for anything but timers.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}
