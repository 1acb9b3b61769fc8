//! REST as the panel and curl use it: HTTP/1.1 from inside a namespace, JSON in and out.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use vpnpanel_node_agent::testing::Namespace;

type Failed = Box<dyn std::error::Error + Send + Sync>;

const LIMIT: Duration = Duration::from_secs(30);

/// A client of the gateway.
pub(crate) struct Rest<'a> {
    host: &'a Namespace,
    address: SocketAddr,
    session: Mutex<Session>,
}

#[derive(Default, Clone)]
struct Session {
    email: String,
    password: String,
    token: Option<String>,
}

/// What the gateway answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body as JSON; null when it was none.
    pub(crate) body: Value,
}

impl<'a> Rest<'a> {
    /// A client in a namespace that has not signed in.
    pub(crate) fn new(host: &'a Namespace, address: &str) -> Self {
        Self {
            host,
            address: address.parse().expect("an address"),
            session: Mutex::default(),
        }
    }

    /// Signs in, and again whenever the access token is no longer taken. Returns the answer.
    pub(crate) fn sign_in(&self, email: &str, password: &str) -> Value {
        let answer = self
            .login(email, password)
            .unwrap_or_else(|error| panic!("sign in: {error}"));
        assert_eq!(answer.status, 200, "sign in: {}", answer.body);
        let mut session = self.session.lock().expect("not poisoned");
        *session = Session {
            email: email.to_owned(),
            password: password.to_owned(),
            token: token_of(&answer.body),
        };
        answer.body
    }

    /// The access token in use.
    pub(crate) fn token(&self) -> String {
        self.session().token.expect("signed in")
    }

    /// GET.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.expect(Method::GET, path, None)
    }

    /// POST.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        self.expect(Method::POST, path, Some(body))
    }

    /// PATCH.
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Value {
        self.expect(Method::PATCH, path, Some(body))
    }

    /// Any call; an error is one of the connection, not of the answer.
    pub(crate) fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let answer = self.once(&method, path, body, self.session().token)?;
        let session = self.session();
        if answer.status != 401 || session.token.is_none() {
            return Ok(answer);
        }
        let login = self.login(&session.email, &session.password)?;
        let token = token_of(&login.body);
        self.session
            .lock()
            .expect("not poisoned")
            .token
            .clone_from(&token);
        self.once(&method, path, body, token)
    }

    /// The first message of a stream of lines that is what was waited for.
    pub(crate) fn wait_in_stream(
        &self,
        path: &str,
        is_it: impl Fn(&Value) -> bool + Sync,
    ) -> Value {
        let read = async {
            let request = self.request(&Method::GET, path, None, self.session().token)?;
            let mut body = self.send(request).await?.into_body();
            let mut text = String::new();
            while let Some(frame) = body.frame().await {
                let frame = frame?.into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&frame)?);
                while let Some((line, rest)) = text.split_once('\n') {
                    // An empty one only shows that the stream lives.
                    if !line.is_empty() {
                        let message: Value = serde_json::from_str(line)?;
                        if is_it(&message) {
                            return Ok(message);
                        }
                    }
                    text = rest.to_owned();
                }
            }
            Err(Failed::from(format!("{path} ended: {text}")))
        };
        self.host
            .block_on(async { tokio::time::timeout(LIMIT, read).await })
            .unwrap_or_else(|_| panic!("{path}: not within {LIMIT:?}"))
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn expect(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        match self.call(method.clone(), path, body) {
            Ok(answer) if answer.status == 200 => answer.body,
            Ok(answer) => panic!("{method} {path}: {} {}", answer.status, answer.body),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    fn login(&self, email: &str, password: &str) -> Result<Answer, String> {
        let body = json!({"email": email, "password": password});
        self.once(&Method::POST, "/v1/auth/login", Some(&body), None)
    }

    fn session(&self) -> Session {
        self.session.lock().expect("not poisoned").clone()
    }

    fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        token: Option<String>,
    ) -> Result<Answer, String> {
        let exchange = async {
            let request = self.request(method, path, body, token)?;
            let response = self.send(request).await?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Ok::<_, Failed>(Answer { status, body })
        };
        self.host
            .block_on(async { tokio::time::timeout(LIMIT, exchange).await })
            .map_err(|_| format!("no answer within {LIMIT:?}"))?
            .map_err(|error| error.to_string())
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        token: Option<String>,
    ) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    /// On a connection of its own.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

fn token_of(body: &Value) -> Option<String> {
    body["accessToken"].as_str().map(str::to_owned)
}

/// A 64-bit integer of an answer: protojson writes it as a string, and may leave a zero out.
pub(crate) fn integer(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::String(text) => text.parse().expect("an integer"),
        other => other.as_u64().expect("an integer"),
    }
}
