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
    pub(crate) administrator: Option<FirstAdministrator>,
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
        if let Some(administrator) = &self.administrator {
            line("first sign-in", &administrator.email);
            if let Some(password) = &administrator.password {
                line("one-time password", password.expose());
            }
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use vpnpanel_runtime::settings::Secret;

    use super::*;

    #[test]
    fn the_password_ends_the_only_line_that_names_it() {
        let welcome = Welcome {
            panel: Some(([127, 0, 0, 1], 8080).into()),
            administrator: Some(FirstAdministrator {
                email: "admin@localhost".to_owned(),
                password: Some(Secret::new("s3cret")),
            }),
            ..Welcome::default()
        };
        let text = welcome.text();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("password"))
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].ends_with(" s3cret"));
        assert!(text.contains("http://127.0.0.1:8080"));
    }
}
