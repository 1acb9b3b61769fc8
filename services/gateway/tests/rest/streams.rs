//! Server streams over HTTP.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vpnpanel_gateway::Limits;

use crate::support::Gateway;

const EVENTS: [(&str, &str); 1] = [("accept", "text/event-stream")];
/// Long enough for a busy machine, short enough for a failing test.
const SOON: Duration = Duration::from_secs(20);

fn lines(body: &Bytes) -> Vec<Json> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The next piece of a body, as text.
async fn piece(body: &mut Incoming) -> Option<String> {
    let frame = timeout(SOON, body.frame())
        .await
        .expect("a frame in time")?;
    let data = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

#[tokio::test]
async fn messages_come_as_lines_of_json() {
    for gateway in [Gateway::start().await, Gateway::over_http2().await] {
        let answer = gateway.get("/v1/watch?count=3").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/x-ndjson");
        let lines = lines(&answer.body);
        let numbers: Vec<&Json> = lines.iter().map(|l| &l["result"]["big"]).collect();
        assert_eq!(numbers, ["0", "1", "2"]);
    }
}

#[tokio::test]
async fn messages_come_as_events_for_those_who_ask() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .send(Method::GET, "/v1/watch?count=2", &EVENTS, "")
        .await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{text}");
    let first: Json = serde_json::from_str(events[0].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(first["big"], "0");
    assert_eq!(events[2], "event: end\ndata: {}");
}

#[tokio::test]
async fn an_error_before_the_first_message_is_an_ordinary_error() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/watch?count=-1").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (400, "INVALID_ARGUMENT")
    );
}

#[tokio::test]
async fn an_error_later_is_the_last_thing_in_the_stream() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/watch?count=1&then=fail").await;
    assert_eq!(answer.status, 200);
    let lines = lines(&answer.body);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["error"]["status"], "UNAVAILABLE");
    assert_eq!(lines[1]["error"]["message"], "failed as asked");

    let answer = gateway
        .send(Method::GET, "/v1/watch?count=0&then=fail", &EVENTS, "")
        .await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let error = text.strip_prefix("event: error\ndata: ").unwrap();
    let error: Json = serde_json::from_str(error.trim_end()).unwrap();
    assert_eq!(error["code"], 14);
    assert!(!text.contains("event: end"));
}

#[tokio::test]
async fn raw_pieces_are_joined_under_their_media_type() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/streams/x").await;
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(answer.body, "one two three");
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let limits = Limits {
        heartbeat: Duration::from_millis(5),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    for (headers, sign) in [(&EVENTS[..], ": heartbeat\n\n"), (&[][..], "\n")] {
        let answer = gateway
            .open(Method::GET, "/v1/watch?then=wait", headers, "")
            .await;
        let mut body = answer.into_body();
        for _ in 0..3 {
            let beat = piece(&mut body).await.unwrap();
            assert_eq!(beat.replace(sign, ""), "", "{beat:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_stream() {
    for gateway in [Gateway::start().await, Gateway::over_http2().await] {
        let answer = gateway
            .open(Method::GET, "/v1/watch?count=1&then=wait", &[], "")
            .await;
        let mut body = answer.into_body();
        assert!(piece(&mut body).await.unwrap().contains("result"));
        drop(body);
        timeout(SOON, gateway.service.dropped.notified())
            .await
            .expect("cancelled");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_call() {
    for gateway in [Gateway::start().await, Gateway::over_http2().await] {
        let body = json!({});
        let call = gateway.post("/v1/hang", &body);
        // Dropped, and its connection with it, once the service has the call.
        tokio::select! {
            answer = call => panic!("answered: {answer:?}"),
            () = gateway.service.begun.notified() => {}
        }
        timeout(SOON, gateway.service.dropped.notified())
            .await
            .expect("cancelled");
    }
}

#[tokio::test]
async fn a_stream_ends_at_the_deadline_its_client_set() {
    let gateway = Gateway::start().await;
    let headers = [("x-request-timeout", "50ms")];
    let answer = gateway
        .send(Method::GET, "/v1/watch?count=1&then=wait", &headers, "")
        .await;
    let lines = lines(&answer.body);
    assert_eq!(
        lines.last().unwrap()["error"]["status"],
        "DEADLINE_EXCEEDED"
    );
}

#[tokio::test]
async fn a_gateway_that_shuts_down_tells_its_streams() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .open(Method::GET, "/v1/watch?count=1&then=wait", &[], "")
        .await;
    let mut body = answer.into_body();
    assert!(piece(&mut body).await.unwrap().contains("result"));
    gateway.stop.cancel();
    let last: Json = serde_json::from_str(&piece(&mut body).await.unwrap()).unwrap();
    assert_eq!(last["error"]["status"], "UNAVAILABLE");
    assert_eq!(piece(&mut body).await, None);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let limits = Limits {
        heartbeat: Duration::from_millis(1),
        stream_patience: Duration::from_millis(20),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    // More than what the buffers between the two hold.
    let path = "/v1/watch?count=1000000&then=wait";
    let answer = gateway.open(Method::GET, path, &[], "").await;
    timeout(SOON, gateway.service.dropped.notified())
        .await
        .expect("cut off");
    drop(answer);
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_up_no_call() {
    let limits = Limits {
        stream_patience: Duration::from_secs(600),
        ..Limits::default()
    };
    let gateway = Gateway::calling_out(limits).await;
    let stream = TokioIo::new(TcpStream::connect(gateway.address).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake::<_, Empty<Bytes>>(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..16 {
        let request = Request::get("http://localhost/v1/streams/endless");
        client.ready().await.unwrap();
        unread.push(client.send_request(request.body(Empty::new()).unwrap()));
    }
    // Calls are answered all the while, until no stream has had a piece taken for many of them.
    let (mut taken, mut quiet) = (0, 0);
    while quiet < 50 {
        let answer = timeout(SOON, gateway.get("/v1/echo")).await;
        assert_eq!(answer.expect("an answer").status, 200);
        let now = gateway.service.pieces.load(SeqCst);
        quiet = if now == taken { quiet + 1 } else { 0 };
        taken = now;
    }
    drop(unread);
}
