//! Load on a server: calls one after the other on a few connections that stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tonic::metadata::{Ascii, MetadataValue};
use vpnpanel_api::user::v1::GetUserRequest;
use vpnpanel_api::user::v1::user_service_client::UserServiceClient;

use crate::server::Server;

/// Calls under way at a time.
const CONNECTIONS: u64 = 4;
/// Calls before the measurement begins.
const WARM_UP: u64 = 500;
const EMAIL: &str = "admin@localhost";
const PASSWORD: &str = "correct horse battery staple";

/// What a call costs the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// CPU time of the server for each call.
    pub(crate) cpu_micros: f64,
    /// Calls answered in a second.
    pub(crate) per_second: f64,
}

/// A REST client.
#[derive(Clone)]
pub(crate) struct Rest {
    address: String,
    token: Option<String>,
}

impl Rest {
    /// A client of a server that listens.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        connection(address).await?;
        Ok(Self {
            address: address.to_owned(),
            token: None,
        })
    }

    /// Signs in, changes the one-time password, and returns the tenant.
    pub(crate) async fn first_sign_in(&mut self, one_time: &str) -> Result<String> {
        self.sign_in(one_time).await?;
        let body = json!({"currentPassword": one_time, "newPassword": PASSWORD});
        self.post("/v1/auth/password", &body).await?;
        self.sign_in(PASSWORD).await?;
        let tenants = self.get("/v1/tenants").await?;
        Ok(tenants["tenants"][0]["id"]
            .as_str()
            .context("a tenant")?
            .to_owned())
    }

    async fn sign_in(&mut self, password: &str) -> Result<()> {
        let body = json!({"email": EMAIL, "password": password});
        let answer = self.post("/v1/auth/login", &body).await?;
        self.token = Some(
            answer["accessToken"]
                .as_str()
                .context("a token")?
                .to_owned(),
        );
        Ok(())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bytes(path).await?)?)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let mut connection = connection(&self.address).await?;
        let answer = self
            .call(&mut connection, Method::POST, path, body.to_string())
            .await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// The body of an answer.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Bytes> {
        let mut connection = connection(&self.address).await?;
        self.call(&mut connection, Method::GET, path, String::new())
            .await
    }

    /// The path of the last page of users.
    pub(crate) async fn last_page(&self, tenant: &str, size: u64) -> Result<String> {
        let mut token = String::new();
        loop {
            let path = format!("/v1/tenants/{tenant}/users?pageSize={size}&pageToken={token}");
            // Large steps until the end is near, so that walking takes little time.
            let step = format!("/v1/tenants/{tenant}/users?pageSize=1000&pageToken={token}");
            let listed = self.get(&step).await?;
            match listed["nextPageToken"].as_str() {
                Some(next) if !next.is_empty() => token = next.to_owned(),
                _ => return Ok(path),
            }
        }
    }

    /// GETs a path so many times.
    pub(crate) async fn measure(&self, server: &Server, path: &str, calls: u64) -> Result<Cost> {
        let path: Arc<str> = path.into();
        self.clone().spread(WARM_UP, Arc::clone(&path)).await?;
        let (cpu, began) = (server.cpu_micros()?, Instant::now());
        self.clone().spread(calls, path).await?;
        cost(server, cpu, began, calls)
    }

    async fn spread(self, calls: u64, path: Arc<str>) -> Result<()> {
        let left = Arc::new(AtomicU64::new(calls));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (rest, path, left) = (self.clone(), Arc::clone(&path), Arc::clone(&left));
            tasks.spawn(async move {
                let mut connection = connection(&rest.address).await?;
                while take(&left) {
                    rest.call(&mut connection, Method::GET, &path, String::new())
                        .await?;
                }
                anyhow::Ok(())
            });
        }
        all(tasks).await
    }

    async fn call(
        &self,
        connection: &mut SendRequest<Full<Bytes>>,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Bytes> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        connection.ready().await?;
        let response = connection
            .send_request(request.body(Full::new(body.into()))?)
            .await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }
}

/// Makes users, all in one group with one inbound, and returns what each cost.
pub(crate) async fn create_users(
    rest: &Rest,
    server: &Server,
    tenant: &str,
    users: u64,
) -> Result<Cost> {
    let inbound = json!({"name": "main", "offeredToTenants": true,
        "wireguard": {"ipv4Pool": "10.0.0.0/8"}});
    let inbound = rest.post("/v1/inbounds", &inbound).await?;
    let group = json!({"name": "everyone", "inboundIds": [inbound["id"]]});
    let group = rest
        .post(&format!("/v1/tenants/{tenant}/groups"), &group)
        .await?;
    let group = group["id"].as_str().context("a group")?.to_owned();
    let path: Arc<str> = format!("/v1/tenants/{tenant}/users").into();
    let next = Arc::new(AtomicU64::new(0));
    let (cpu, began) = (server.cpu_micros()?, Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (rest, path, next) = (rest.clone(), Arc::clone(&path), Arc::clone(&next));
        let group = group.clone();
        tasks.spawn(async move {
            let mut connection = connection(&rest.address).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= users {
                    return anyhow::Ok(());
                }
                let body = json!({"username": format!("user{number:06}"), "groupIds": [group],
                    "dataLimitBytes": "20000000000"});
                rest.call(&mut connection, Method::POST, &path, body.to_string())
                    .await?;
            }
        });
    }
    all(tasks).await?;
    cost(server, cpu, began, users)
}

/// A gRPC client of UserService.
pub(crate) struct Grpc {
    client: UserServiceClient<tonic::transport::Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Grpc {
    /// A client that is signed in as a REST client is.
    pub(crate) async fn connect(address: &str, rest: &Rest) -> Result<Self> {
        let mut grpc = Self::anonymous(address).await?;
        let token = rest.token.as_ref().context("signed in")?;
        grpc.authorization = Some(format!("Bearer {token}").parse()?);
        Ok(grpc)
    }

    /// A client that is not signed in.
    pub(crate) async fn anonymous(address: &str) -> Result<Self> {
        let channel = tonic::transport::Channel::from_shared(format!("http://{address}"))?;
        Ok(Self {
            client: UserServiceClient::new(channel.connect().await?),
            authorization: None,
        })
    }

    /// Gets a user so many times.
    pub(crate) async fn measure(
        &self,
        server: &Server,
        tenant: &str,
        user: &str,
        calls: u64,
    ) -> Result<Cost> {
        self.spread(WARM_UP, tenant, user).await?;
        let (cpu, began) = (server.cpu_micros()?, Instant::now());
        self.spread(calls, tenant, user).await?;
        cost(server, cpu, began, calls)
    }

    async fn spread(&self, calls: u64, tenant: &str, user: &str) -> Result<()> {
        let left = Arc::new(AtomicU64::new(calls));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (mut client, left) = (self.client.clone(), Arc::clone(&left));
            let authorization = self.authorization.clone();
            let message = GetUserRequest {
                tenant_id: tenant.to_owned(),
                user_id: user.to_owned(),
            };
            tasks.spawn(async move {
                while take(&left) {
                    let mut request = tonic::Request::new(message.clone());
                    if let Some(value) = &authorization {
                        request
                            .metadata_mut()
                            .insert("authorization", value.clone());
                    }
                    client.get_user(request).await?;
                }
                anyhow::Ok(())
            });
        }
        all(tasks).await
    }
}

fn cost(server: &Server, cpu: f64, began: Instant, calls: u64) -> Result<Cost> {
    Ok(Cost {
        cpu_micros: (server.cpu_micros()? - cpu) / calls as f64,
        per_second: calls as f64 / began.elapsed().as_secs_f64(),
    })
}

fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

async fn all(mut tasks: tokio::task::JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn connection(address: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    if sender.is_closed() {
        bail!("{address} closed the connection");
    }
    Ok(sender)
}
