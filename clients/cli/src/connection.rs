//! Calls on behalf of the context: to its server, with its tokens, about its tenant. Tokens are
//! renewed before they end, by one process at a time.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use vpnpanel_client::{Client, Error};

use crate::config::{Folder, Tokens};
use crate::dynamic;
use crate::failure::Failure;

/// An access token is renewed when it has fewer seconds left.
const RENEW_BEFORE: i64 = 60;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) folder: Folder,
    pub(crate) context: String,
    /// The tenant that was named, by id or name.
    pub(crate) tenant: Option<String>,
    client: Client,
}

impl Connection {
    /// Connects with the first call. Nothing is signed in yet.
    pub(crate) fn new(
        folder: Folder,
        context: String,
        server: &str,
        ca_file: Option<&PathBuf>,
        tenant: Option<String>,
    ) -> Result<Self, Failure> {
        // Long enough for an export; a server that is gone is seen by keep-alive.
        let mut builder = Client::builder(server)?.timeout(Duration::from_secs(3_600));
        if let Some(path) = ca_file {
            let pem = std::fs::read(path)
                .map_err(|e| Failure::Local(format!("{}: {e}", path.display())))?;
            builder = builder.ca_pem(pem);
        }
        let client = builder.connect_lazy()?;
        Ok(Self {
            folder,
            context,
            tenant,
            client,
        })
    }

    /// Takes up the session of the context, or the API token in `VPNCTL_TOKEN`.
    pub(crate) async fn resume(&self) -> Result<(), Failure> {
        if let Ok(token) = std::env::var("VPNCTL_TOKEN")
            && !token.is_empty()
        {
            return Ok(self.client.use_token(token).await?);
        }
        let _lock = self.folder.lock()?;
        let tokens = self.folder.tokens(&self.context)?.ok_or_else(|| {
            let context = &self.context;
            Failure::SignIn(format!(
                "nobody is signed in to context {context:?}: run `vpnctl login`"
            ))
        })?;
        if tokens.expires - Timestamp::now().as_second() > RENEW_BEFORE {
            return Ok(self.client.use_token(tokens.access).await?);
        }
        let request = json!({"refreshToken": tokens.refresh});
        match self
            .one("vpnpanel.auth.v1.AuthService/Refresh", request)
            .await
        {
            Ok(answer) => self.keep(&answer).await,
            Err(Failure::Client(error)) if is_unauthenticated(&error) => {
                self.folder.set_tokens(&self.context, None)?;
                Err(Failure::SignIn(
                    "the session has ended: run `vpnctl login`".into(),
                ))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the tokens of a sign-in or renewal. Call it under the lock.
    pub(crate) async fn keep(&self, answer: &Value) -> Result<(), Failure> {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let life = text("expiresIn");
        let life: f64 = life.trim_end_matches('s').parse().map_err(|_| {
            Failure::Local(format!("the server said that a token lives for {life:?}"))
        })?;
        let tokens = Tokens {
            access: text("accessToken"),
            refresh: text("refreshToken"),
            expires: Timestamp::now().as_second() + life as i64,
        };
        self.folder
            .set_tokens(&self.context, Some(tokens.clone()))?;
        Ok(self.client.use_token(tokens.access).await?)
    }

    /// Hands on each message that answers, as it came.
    pub(crate) async fn each(
        &self,
        method: &str,
        request: Value,
        each: impl FnMut(DynamicMessage) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let method = dynamic::method(method)?;
        dynamic::call(self.client.authorized(), &method, request, each).await
    }

    /// The answer to a unary call as protojson, defaults included.
    pub(crate) async fn one(&self, method: &str, request: Value) -> Result<Value, Failure> {
        let mut answer = Value::Null;
        self.each(method, request, |message| {
            answer = json_of(&message)?;
            Ok(())
        })
        .await?;
        Ok(answer)
    }
}

fn is_unauthenticated(error: &Error) -> bool {
    error.code() == Some(vpnpanel_client::Code::Unauthenticated)
}

/// protojson with fields at their defaults, so that programs find every field.
pub(crate) fn json_of(message: &DynamicMessage) -> Result<Value, Failure> {
    let options = SerializeOptions::new().skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| Failure::Local(format!("the answer cannot be shown: {e}")))
}
