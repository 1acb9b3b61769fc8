//! Runs a tool of the host to its end, within a time limit.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;

const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);
/// Folders of administration tools, which a service's or a user's PATH often lacks.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
/// More of a tool's complaint than this helps nobody.
const MESSAGE: usize = 400;

/// Finds a program in PATH or in the folders of administration tools.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Runs a program with an input text and returns what it printed.
///
/// # Errors
/// [`Error::MissingTool`], [`Error::Command`] with its complaint, [`Error::CommandTimeout`].
pub(crate) fn run(
    program: &'static str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, Error> {
    let path = find(program).ok_or(Error::MissingTool { program, package })?;
    let title = || format!("{program} {}", args.join(" "));
    let failed = |message: String| Error::Command {
        program: title(),
        message,
    };
    let mut child = Command::new(path)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that does not read its input to the end says why on stderr.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let stdout = scope.spawn(|| read_all(stdout));
        let stderr = scope.spawn(|| read_all(stderr));
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(None) => {
                    break Err(Error::CommandTimeout {
                        program: title(),
                        limit: LIMIT,
                    });
                }
                Err(error) => break Err(failed(error.to_string())),
            }
        };
        if status.is_err() {
            // It is being given up; what remains is to reap it, so that its pipes close.
            let _ = child.kill();
            let _ = child.wait();
        }
        let stdout = stdout.join().unwrap_or_default();
        let stderr = stderr.join().unwrap_or_default();
        if status?.success() {
            return Ok(stdout);
        }
        let line = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(failed(line.chars().take(MESSAGE).collect()))
    })
}

fn read_all(stream: Option<impl Read>) -> String {
    const MOST: u64 = 64 << 20;
    let mut text = Vec::new();
    if let Some(stream) = stream {
        // What could be read before an error is all there is to show.
        let _ = stream.take(MOST).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
