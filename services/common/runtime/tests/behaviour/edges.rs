//! What a listener lets itself be told, and how long it waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use futures::FutureExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use vpnpanel_runtime::serve::ConnectionLimits;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::tls::ServerTls;
use vpnpanel_runtime::{Grpc, Http, Service, Supervisor};

use crate::authority::Authority;
use crate::wire::{PATIENCE, get as fetch};

const SHORT: Duration = Duration::from_millis(40);
/// Bytes of what `/long` answers: more than one frame.
const LONG: usize = 40_000;
const METHOD: &str = "/vpnpanel.auth.v1.AuthService/GetMe";

struct Served {
    supervisor: Supervisor,
    rest: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    work: Arc<Work>,
}

/// What the handlers are at.
#[derive(Debug, Default)]
struct Work {
    /// Calls of the gRPC method that began.
    begun: Notify,
    now: AtomicUsize,
    /// The most that there ever were at one time.
    peak: AtomicUsize,
    /// What `/flag` answers.
    flag: AtomicBool,
}

/// A call that hangs.
struct Hanging(Arc<Work>);

impl Hanging {
    fn begin(work: Arc<Work>) -> Self {
        let now = work.now.fetch_add(1, SeqCst) + 1;
        work.peak.fetch_max(now, SeqCst);
        work.begun.notify_one();
        Self(work)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

impl Served {
    /// A listener of each kind; `/hang` and the gRPC method never answer.
    async fn with(limits: ConnectionLimits) -> Self {
        let hang = || std::future::pending::<String>();
        let large = || async { vec![b'x'; 64 << 20] };
        let rest = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/hang", get(hang))
            .route("/large", get(large))
            .route("/long", get(|| async { vec![b'x'; LONG] }));
        let work = Arc::<Work>::default();
        let flag = {
            let work = Arc::clone(&work);
            move || async move { work.flag.load(SeqCst).to_string() }
        };
        let rest = rest.route("/flag", get(flag));
        let counted = {
            let work = Arc::clone(&work);
            move || async move {
                let _hanging = Hanging::begin(work);
                std::future::pending::<String>().await
            }
        };
        let grpc = Router::new().route(METHOD, post(counted));
        let mut service = Service::new("probe");
        service.admin(ListenAddr::any_loopback());
        service.http("rest", Http::new(rest, ListenAddr::any_loopback()));
        service.grpc("api", Grpc::new(grpc).listen(ListenAddr::any_loopback()));
        let mut supervisor =
            Supervisor::new(Duration::from_secs(5), Duration::ZERO).connection_limits(limits);
        let addresses = supervisor.start(service).await.unwrap();
        Self {
            supervisor,
            rest: addresses.of("rest").unwrap(),
            grpc: addresses.of("api").unwrap(),
            admin: addresses.of("admin").unwrap(),
            work,
        }
    }

    /// Waits until the gRPC method was called once more.
    async fn begun(&self) {
        let begun = self.work.begun.notified();
        timeout(PATIENCE, begun).await.expect("a call");
    }

    /// Waits until so many connections were ended by us for this reason.
    async fn ended(&self, listener: &str, reason: &str, times: u64) {
        self.counted(format!(
            "connections_ended_total{{listener=\"{listener}\",reason=\"{reason}\"}} {times}"
        ))
        .await;
    }

    /// Waits until so many answers were cut off.
    async fn cut(&self, listener: &str, times: u64) {
        self.counted(format!(
            "answers_cut_total{{listener=\"{listener}\"}} {times}"
        ))
        .await;
    }

    async fn counted(&self, line: String) {
        let counted = async {
            while !fetch(self.admin, "/metrics").await.1.contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, counted).await.expect(&line);
    }
}

fn short() -> ConnectionLimits {
    ConnectionLimits {
        header_deadline: SHORT,
        idle_timeout: SHORT,
        ..ConnectionLimits::default()
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Everything that still comes, until the other end hangs up.
async fn rest_of(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text));
    // A connection that is cut may also be reset.
    let _ended = read.await.expect("hung up on");
    String::from_utf8_lossy(&text).into_owned()
}

async fn http2(address: SocketAddr) -> SendRequest<Body> {
    let stream = TokioIo::new(connect(address).await);
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

async fn http2_with_window(address: SocketAddr, bytes: u32) -> SendRequest<Body> {
    let stream = TokioIo::new(connect(address).await);
    let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(bytes)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

fn to(path: &str) -> Request<Body> {
    Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on() {
    let served = Served::with(ConnectionLimits {
        header_deadline: SHORT,
        ..ConnectionLimits::default()
    })
    .await;
    for (listener, address) in [("rest", served.rest), ("api", served.grpc)] {
        rest_of(&mut connect(address).await).await;
        served.ended(listener, "slow_headers", 1).await;
    }
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn headers_that_dribble_are_given_up_however_busy_they_look() {
    let served = Served::with(ConnectionLimits {
        header_deadline: SHORT,
        max_header_bytes: 64 << 20,
        ..ConnectionLimits::default()
    })
    .await;
    let mut stream = connect(served.rest).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        .await
        .unwrap();
    let dribble = async {
        // One byte after the other, for ever.
        while stream.write_all(b"y").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, dribble).await.expect("hung up on");
    served.ended("rest", "slow_headers", 1).await;
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_at_work_is_not() {
    let served = Served::with(short()).await;
    let mut working = connect(served.rest).await;
    working
        .write_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut idle = connect(served.rest).await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = rest_of(&mut idle).await;
    assert!(answer.ends_with("here"), "{answer}");
    served.ended("rest", "idle", 1).await;
    let quiet = working.read_u8().now_or_never();
    assert!(quiet.is_none(), "still waiting for its answer");

    let mut http2 = http2(served.rest).await;
    let answer = http2.send_request(to("/")).await.unwrap();
    assert_eq!(answer.status(), 405);
    drop(answer);
    served.ended("rest", "idle", 2).await;
    // GOAWAY: the client knows before it asks again.
    let gone = async {
        while http2.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    drop(working);
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_cut_off() {
    let served = Served::with(ConnectionLimits {
        write_deadline: SHORT,
        ..ConnectionLimits::default()
    })
    .await;
    let mut stream = connect(served.rest).await;
    stream
        .write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    served.ended("rest", "takes_nothing", 1).await;
    assert!(rest_of(&mut stream).await.len() < 64 << 20);
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_cut() {
    let served = Served::with(ConnectionLimits {
        write_deadline: SHORT,
        ..ConnectionLimits::default()
    })
    .await;
    let mut cut = 0;
    // With a window of one byte, all of a short answer could lie ready to be sent, and nobody wait.
    for window in [0, 1] {
        let mut client = http2_with_window(served.rest, window).await;
        for path in ["/", "/large"] {
            let request = Request::get(format!("http://test{path}")).body(Body::empty());
            let answer = client.send_request(request.unwrap()).await.unwrap();
            cut += 1;
            // Who reads opens the window; this one does not until it is too late.
            served.cut("rest", cut).await;
            let body = timeout(PATIENCE, answer.into_body().collect()).await;
            assert!(body.expect("an end").is_err(), "{path} came whole");
        }
        // What it takes nothing of is gone, and nothing else.
        let missing = client.send_request(to("/none")).await.unwrap();
        assert_eq!(missing.status(), 404);
    }
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_opens_its_window_bit_by_bit_gets_all_of_an_answer() {
    let served = Served::with(ConnectionLimits::default()).await;
    let mut client = http2_with_window(served.rest, 5).await;
    let request = Request::get("http://test/long").body(Body::empty());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.headers()["content-length"], LONG.to_string());
    let body = timeout(PATIENCE, answer.into_body().collect()).await;
    let body = body.expect("an answer").unwrap().to_bytes();
    assert!(body.len() == LONG && body.iter().all(|byte| *byte == b'x'));
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn heads_beyond_the_bounds_are_refused_before_anything_sees_them() {
    let served = Served::with(ConnectionLimits {
        max_headers: 8,
        max_uri_bytes: 64,
        max_header_bytes: 8192,
        ..ConnectionLimits::default()
    })
    .await;
    let long = format!("/?{}", "x".repeat(63));
    let (code, body) = fetch(served.rest, &long).await;
    assert_eq!(code, 414);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["details"][0]["reason"], "URI_TOO_LONG");

    // HTTP/1: hyper gives up while reading.
    for headers in ["x: y\r\n".repeat(9), format!("x: {}\r\n", "y".repeat(9000))] {
        let mut stream = connect(served.rest).await;
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest_of(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    // HTTP/2: the number is ours to count, the size is announced and enforced by h2.
    let mut many = to(METHOD);
    for at in 0..8 {
        let name = http::HeaderName::try_from(format!("x-{at}")).unwrap();
        many.headers_mut().insert(name, "y".parse().unwrap());
    }
    let answer = http2(served.grpc).await.send_request(many).await.unwrap();
    let status = tonic::Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.message(), "more than 8 headers");
    let mut large = to(METHOD);
    large
        .headers_mut()
        .insert("x", "y".repeat(9000).parse().unwrap());
    let answer = http2(served.grpc).await.send_request(large).await;
    assert!(answer.is_ok_and(|answer| answer.status() == 431));
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_has_no_more_requests_under_way_than_it_may() {
    let served = Served::with(ConnectionLimits {
        max_concurrent_streams: 2,
        ..ConnectionLimits::default()
    })
    .await;
    let mut client = http2(served.grpc).await;
    // The settings have arrived once something was answered.
    let missing = client.send_request(to("/none")).await.unwrap();
    drop(missing);
    let mut calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(client.send_request(to(METHOD))))
        .collect();
    served.begun().await;
    served.begun().await;
    // Whichever waits is the one that is left.
    for call in calls.drain(..2) {
        call.abort();
    }
    served.begun().await;
    assert_eq!(served.work.peak.load(SeqCst), 2);
    for call in calls {
        call.abort();
    }
    drop(client);
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_beyond_the_bound_waits_until_another_is_closed() {
    let served = Served::with(ConnectionLimits {
        max_connections: 2,
        ..ConnectionLimits::default()
    })
    .await;
    const ASK: &[u8] = b"GET /flag HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = async |stream: &mut TcpStream| {
        let mut answer = vec![0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..read.unwrap()]).into_owned()
    };
    let mut first = connect(served.rest).await;
    let mut second = connect(served.rest).await;
    for stream in [&mut first, &mut second] {
        stream.write_all(ASK).await.unwrap();
        assert!(answer(stream).await.ends_with("false"));
    }
    let mut third = connect(served.rest).await;
    third.write_all(ASK).await.unwrap();
    second.write_all(ASK).await.unwrap();
    assert!(answer(&mut second).await.ends_with("false"));
    let open = fetch(served.admin, "/metrics").await.1;
    assert!(open.contains("connections_open{listener=\"rest\"} 2"));
    served.work.flag.store(true, SeqCst);
    drop(first);
    assert!(answer(&mut third).await.ends_with("true"));
    drop((second, third));
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_nobody_elses() {
    let served = Served::with(ConnectionLimits {
        max_resets: 50,
        // Also how long whoever was told to go may take.
        header_deadline: Duration::from_secs(1),
        ..ConnectionLimits::default()
    })
    .await;
    let mut honest = http2(served.grpc).await;
    honest.send_request(to("/none")).await.unwrap();
    let mut client = http2(served.grpc).await;
    let attacking = async {
        while client.ready().await.is_ok() {
            // Begun, sent, and given up as soon as it is under way.
            let call = client.send_request(to(METHOD));
            tokio::select! {
                _ = call => {}
                () = served.work.begun.notified() => {}
            }
        }
    };
    timeout(PATIENCE, attacking).await.expect("told to go away");
    served.ended("api", "resets", 1).await;
    honest.send_request(to("/none")).await.unwrap();
    drop((client, honest));
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_is_left_lying_is_given_up_and_holds_nobody_up() {
    let authority = Authority::new();
    let credentials = authority.issue_names(&[], &["panel.example.com"]);
    let mut service = Service::new("probe");
    service.admin(ListenAddr::any_loopback());
    let router = Router::new().route("/", get(|| async { "here" }));
    service.http(
        "rest",
        Http::new(router, ListenAddr::any_loopback())
            .tls(ServerTls::public(credentials).unwrap())
            .connection_limits(ConnectionLimits {
                handshake_deadline: SHORT,
                max_handshakes_per_address: 1,
                ..ConnectionLimits::default()
            }),
    );
    let mut supervisor = Supervisor::new(Duration::from_secs(5), Duration::ZERO);
    let addresses = supervisor.start(service).await.unwrap();
    let address = addresses.of("rest").unwrap();
    // The beginning of a ClientHello that never goes on, and not even that.
    let mut begun = connect(address).await;
    begun.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let mut silent = connect(address).await;
    rest_of(&mut begun).await;
    rest_of(&mut silent).await;
    let metrics = fetch(addresses.of("admin").unwrap(), "/metrics").await.1;
    let line = "connections_ended_total{listener=\"rest\",reason=\"slow_handshake\"} 2";
    assert!(metrics.contains(line), "{metrics}");
    supervisor.stop().await.unwrap();
}
