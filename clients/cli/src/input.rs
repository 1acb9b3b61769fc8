//! What is read from people and programs. Secrets come from the terminal or stdin, never from
//! arguments, which every process of the host can see.

use std::io::{IsTerminal as _, Read as _};

use serde_json::Value;

use crate::failure::Failure;

/// More than any message of the contract may have.
const LONGEST: u64 = 4 << 20;

/// A secret: asked for on a terminal, else the next line of stdin.
pub(crate) fn secret(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let failed = |e: std::io::Error| Failure::Local(format!("{prompt}: {e}"));
    if stdin.is_terminal() {
        return rpassword::prompt_password(format!("{prompt}: ")).map_err(failed);
    }
    let mut line = String::new();
    stdin.read_line(&mut line).map_err(failed)?;
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(Failure::Usage(format!("{prompt} is expected on stdin")));
    }
    Ok(line.to_owned())
}

/// JSON from an argument; `-` reads stdin.
pub(crate) fn json(text: &str) -> Result<Value, Failure> {
    let wrong = |e: serde_json::Error| Failure::Usage(format!("this is no JSON: {e}"));
    if text != "-" {
        return serde_json::from_str(text).map_err(wrong);
    }
    let mut text = Vec::new();
    let stdin = std::io::stdin().lock();
    stdin
        .take(LONGEST)
        .read_to_end(&mut text)
        .map_err(|e| Failure::Local(format!("stdin: {e}")))?;
    serde_json::from_slice(&text).map_err(wrong)
}
