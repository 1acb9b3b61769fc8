//! A REST client that calls from an address of its own, each time on a new connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::server::GATEWAY;

pub(crate) struct Client {
    source: SocketAddr,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: String,
}

impl Client {
    /// Calls from an address.
    pub(crate) fn from(address: &str) -> Result<Self> {
        Ok(Self {
            source: SocketAddr::new(address.parse()?, 0),
        })
    }

    /// Changes the one-time password, and signs in by the new one.
    pub(crate) async fn first_sign_in(
        &self,
        one_time: &str,
        email: &str,
        password: &str,
    ) -> Result<String> {
        let token = self.token(email, one_time).await?;
        let change = json!({"currentPassword": one_time, "newPassword": password});
        let changed = self
            .post("/v1/auth/password", Some(&token), &change)
            .await?;
        ensure!(changed.status == 200, "{}", changed.body);
        self.token(email, password).await
    }

    async fn token(&self, email: &str, password: &str) -> Result<String> {
        let body = json!({"email": email, "password": password});
        let answer = self.post("/v1/auth/login", None, &body).await?;
        ensure!(answer.status == 200, "{}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body)?;
        Ok(answer["accessToken"]
            .as_str()
            .context("a token")?
            .to_owned())
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Result<Answer> {
        self.call(Method::GET, path, token, String::new()).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<Answer> {
        self.call(Method::POST, path, token, body.to_string()).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: String,
    ) -> Result<Answer> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(self.source)?;
        let stream = socket.connect(GATEWAY.parse()?).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", GATEWAY)
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = sender
            .send_request(request.body(Full::new(Bytes::from(body)))?)
            .await?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = response.into_body().collect().await?.to_bytes();
        drop(sender);
        connection.await??;
        Ok(Answer {
            status,
            retry_after,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}
