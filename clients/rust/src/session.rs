//! The tokens of a client: given once, or got by signing in and renewed before they end. However
//! many calls run at once, one of them renews and the others wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use vpnpanel_api::auth::v1::RefreshRequest;
use vpnpanel_api::auth::v1::auth_service_client::AuthServiceClient;

use crate::error::Error;

/// An access token is renewed when this share of its life is left.
const RENEW_AT: f64 = 0.2;

#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    tokens: Mutex<Tokens>,
    /// The service refused the access token: it is renewed before the next call.
    refused: AtomicBool,
}

#[derive(Debug)]
enum Tokens {
    None,
    Fixed(HeaderValue),
    SignedIn {
        bearer: HeaderValue,
        refresh: SecretString,
        renew_at: Instant,
    },
}

impl Session {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            tokens: Mutex::new(Tokens::None),
            refused: AtomicBool::new(false),
        }
    }

    /// The `authorization` header of the next call.
    pub(crate) async fn bearer(&self) -> Result<Option<HeaderValue>, Status> {
        let mut tokens = self.tokens.lock().await;
        match &*tokens {
            Tokens::None => Ok(None),
            Tokens::Fixed(bearer) => Ok(Some(bearer.clone())),
            Tokens::SignedIn {
                bearer,
                refresh,
                renew_at,
            } => {
                let refused = self.refused.swap(false, Ordering::Relaxed);
                if !refused && Instant::now() < *renew_at {
                    return Ok(Some(bearer.clone()));
                }
                let request = RefreshRequest {
                    refresh_token: refresh.expose_secret().to_owned(),
                    ..RefreshRequest::default()
                };
                let mut auth = AuthServiceClient::new(self.channel.clone());
                let renewed = auth.refresh(request).await?.into_inner();
                let renewed = signed_in(
                    &renewed.access_token,
                    renewed.refresh_token,
                    renewed.expires_in,
                )
                .map_err(|e| Status::internal(e.to_string()))?;
                *tokens = renewed;
                match &*tokens {
                    Tokens::SignedIn { bearer, .. } => Ok(Some(bearer.clone())),
                    _ => Ok(None),
                }
            }
        }
    }

    /// Notes that the service did not accept the token of a call.
    pub(crate) fn refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Uses one token for every call from now on.
    pub(crate) async fn set_token(&self, token: &str) -> Result<(), Error> {
        *self.tokens.lock().await = Tokens::Fixed(bearer(token)?);
        Ok(())
    }

    /// Uses the tokens of a sign-in, which last for `life`.
    pub(crate) async fn set_signed_in(
        &self,
        access: &str,
        refresh: String,
        life: Option<prost_types::Duration>,
    ) -> Result<(), Error> {
        let tokens = signed_in(access, refresh, life)?;
        *self.tokens.lock().await = tokens;
        self.refused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets the tokens.
    pub(crate) async fn clear(&self) {
        *self.tokens.lock().await = Tokens::None;
    }
}

fn signed_in(
    access: &str,
    refresh: String,
    life: Option<prost_types::Duration>,
) -> Result<Tokens, Error> {
    let life = life
        .and_then(|life| Duration::try_from(life).ok())
        .unwrap_or_default();
    Ok(Tokens::SignedIn {
        bearer: bearer(access)?,
        refresh: refresh.into(),
        renew_at: Instant::now() + life.mul_f64(1.0 - RENEW_AT),
    })
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Error::Token)?;
    value.set_sensitive(true);
    Ok(value)
}
