//! Getting a channel to the control plane.

use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::client::Client;
use crate::error::Error;

/// How to reach a control plane.
#[derive(Debug, Clone)]
pub struct Builder {
    endpoint: Endpoint,
    encrypted: bool,
    ca: Vec<Certificate>,
    server_name: Option<String>,
}

impl Builder {
    pub(crate) fn new(address: &str) -> Result<Self, Error> {
        let refuse = || Error::Address(address.to_owned());
        let uri: http::Uri = address.parse().map_err(|_| refuse())?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse()),
        };
        let endpoint = Endpoint::from(uri)
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        Ok(Self {
            endpoint,
            encrypted,
            ca: Vec::new(),
            server_name: None,
        })
    }

    /// Trusts the authorities in `pem` when the address is https.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca.push(Certificate::from_pem(pem));
        self
    }

    /// Expects this name in the server's certificate instead of the address's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Deadline of a call, 30 s unless set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.endpoint = self.endpoint.timeout(timeout);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached, or its certificate is not trusted.
    pub async fn connect(self) -> Result<Client, Error> {
        Ok(Client::new(self.tuned()?.connect().await?))
    }

    /// Connects with the first call.
    ///
    /// # Errors
    /// When the TLS material cannot be used.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        Ok(Client::new(self.tuned()?.connect_lazy()))
    }

    fn tuned(self) -> Result<Endpoint, Error> {
        if !self.encrypted {
            return Ok(self.endpoint);
        }
        let mut tls = ClientTlsConfig::new().ca_certificates(self.ca);
        if let Some(name) = self.server_name {
            tls = tls.domain_name(name);
        }
        Ok(self.endpoint.tls_config(tls)?)
    }
}

impl From<Channel> for Client {
    /// A client over a channel of the caller's own making.
    fn from(channel: Channel) -> Self {
        Self::new(channel)
    }
}
