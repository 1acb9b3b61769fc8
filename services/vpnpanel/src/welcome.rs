//! What a person reads who started the product: where to click, and once, how to sign in. Written
//! to stdout beside the log, because it is the command's result.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;

use vpnpanel_control_api::FirstAdministrator;

/// What there is to tell.
#[derive(Debug, Default)]
pub(crate) struct Welcome {
    pub(crate) panel: Option<SocketAddr>,
    /// The panel speaks TLS.
    pub(crate) https: bool,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) data: String,
    /// What is said about a node on this host.
    pub(crate) node: String,
}

impl Welcome {
    /// Prints it.
    pub(crate) fn print(&self) {
        // Whoever closed stdout does not want to know.
        let _unread = std::io::stdout().write_all(self.text().as_bytes());
    }

    fn text(&self) -> String {
        let mut text = String::from("\n  vpnpanel runs.\n\n");
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "    {name:<19} {value}");
        };
        if let Some(panel) = self.panel {
            let scheme = if self.https { "https" } else { "http" };
            line("panel and REST", &format!("{scheme}://{panel}"));
        }
        if let Some(grpc) = self.grpc {
            line("gRPC", &grpc.to_string());
        }
        line("data", &self.data);
        line("node on this host", &self.node);
        text.push('\n');
        text
    }
}

/// Tells of the first administrator as soon as it is made: whatever fails after that, the password
/// was told.
pub(crate) fn tell(administrator: Option<&FirstAdministrator>) {
    if let Some(administrator) = administrator {
        let _unread = std::io::stdout().write_all(sign_in(administrator).as_bytes());
    }
}

fn sign_in(administrator: &FirstAdministrator) -> String {
    let mut text = format!("\n    {:<19} {}\n", "first sign-in", administrator.email);
    if let Some(password) = &administrator.password {
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text,
            "    {:<19} {}",
            "one-time password",
            password.expose()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use vpnpanel_runtime::settings::Secret;

    use super::*;

    #[test]
    fn the_password_ends_the_only_line_that_names_it() {
        let text = sign_in(&FirstAdministrator {
            email: "admin@localhost".to_owned(),
            password: Some(Secret::new("s3cret")),
        });
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("password"))
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].ends_with(" s3cret"));
    }
}
