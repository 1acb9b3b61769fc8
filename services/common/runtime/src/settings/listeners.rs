//! What one connection, and all of one listener together, may take. The same for every listener of
//! a process: what differs between services is what they answer, not how patient they are.

use clap::{Args, value_parser};

use super::values::{ByteSize, HumanDuration};
use crate::serve::ConnectionLimits;

/// Bounds of each listener of the process.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct ListenerSettings {
    /// Open connections of one listener; further ones wait in the kernel's queue.
    #[arg(long, env = "VPNPANEL_MAX_CONNECTIONS", default_value_t = 16_384,
          value_parser = value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub max_connections: u32,

    /// Of those, how many one address may have (of IPv6, a network of 64 bits), or one identity
    /// where clients show certificates; further ones are closed. Proxies of
    /// VPNPANEL_TRUSTED_PROXIES are not counted.
    #[arg(long, env = "VPNPANEL_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1024,
          value_parser = value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub max_connections_per_address: u32,

    /// How long a TLS handshake may take.
    #[arg(
        long,
        env = "VPNPANEL_HANDSHAKE_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION"
    )]
    pub handshake_timeout: HumanDuration,

    /// How long a client may take from connecting to its first request, and to send the headers
    /// of one.
    #[arg(
        long,
        env = "VPNPANEL_HEADER_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION"
    )]
    pub header_timeout: HumanDuration,

    /// How long a connection may lie idle between requests. Longer than a proxy in front keeps
    /// its connections, so that the proxy closes first.
    #[arg(
        long,
        env = "VPNPANEL_IDLE_TIMEOUT",
        default_value = "75s",
        value_name = "DURATION"
    )]
    pub idle_timeout: HumanDuration,

    /// How long a client may take nothing of what is sent to it; over HTTP/2, of each answer.
    #[arg(
        long,
        env = "VPNPANEL_WRITE_TIMEOUT",
        default_value = "30s",
        value_name = "DURATION"
    )]
    pub write_timeout: HumanDuration,

    /// Requests under way on one HTTP/2 connection.
    #[arg(long, env = "VPNPANEL_MAX_REQUESTS_PER_CONNECTION", default_value_t = 256,
          value_parser = value_parser!(u32).range(1..=65_536), value_name = "N")]
    pub max_requests_per_connection: u32,

    /// Requests that one connection may begin and give up within 10 s; one that does more is
    /// closed.
    #[arg(long, env = "VPNPANEL_MAX_RESETS_PER_CONNECTION", default_value_t = 1000,
          value_parser = value_parser!(u32).range(1..), value_name = "N")]
    pub max_resets_per_connection: u32,

    /// Size of a request's headers, all together.
    #[arg(
        long,
        env = "VPNPANEL_MAX_HEADER_SIZE",
        default_value = "16KiB",
        value_name = "SIZE"
    )]
    pub max_header_size: ByteSize,

    /// Number of a request's headers.
    #[arg(long, env = "VPNPANEL_MAX_HEADERS", default_value_t = 100,
          value_parser = value_parser!(u16).range(8..=1000), value_name = "N")]
    pub max_headers: u16,

    /// Length of a request's path and query.
    #[arg(
        long,
        env = "VPNPANEL_MAX_URI_SIZE",
        default_value = "8KiB",
        value_name = "SIZE"
    )]
    pub max_uri_size: ByteSize,
}

impl ListenerSettings {
    /// The bounds these settings ask for.
    pub fn limits(&self) -> ConnectionLimits {
        let bytes = |size: ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
        ConnectionLimits {
            max_connections: self.max_connections as usize,
            max_connections_per_address: self.max_connections_per_address as usize,
            handshake_deadline: self.handshake_timeout.0,
            header_deadline: self.header_timeout.0,
            idle_timeout: self.idle_timeout.0,
            write_deadline: self.write_timeout.0,
            max_concurrent_streams: self.max_requests_per_connection,
            max_resets: self.max_resets_per_connection,
            max_header_bytes: bytes(self.max_header_size),
            max_headers: usize::from(self.max_headers),
            max_uri_bytes: bytes(self.max_uri_size) as usize,
            ..ConnectionLimits::default()
        }
    }
}
