use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::JsonLayer;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn parsed(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

fn logged(action: impl FnOnce()) -> Vec<Value> {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(JsonLayer::new("vpnpanel", lines.clone()));
    tracing::subscriber::with_default(subscriber, action);
    lines.parsed()
}

#[test]
fn a_line_has_the_shared_keys_at_the_top_level() {
    let lines = logged(|| {
        let service = super::service_span("collector").entered();
        let request = tracing::info_span!(
            "rpc",
            request_id = "r-1",
            tenant_id = tracing::field::Empty,
            node_id = tracing::field::Empty
        )
        .entered();
        tracing::info!(rows = 3, "batch committed");
        super::record_tenant("t-1");
        super::record_node("n-1");
        tracing::warn!(error = "late", "stream lags");
        drop((request, service));
        tracing::error!("outside");
    });
    assert_eq!(lines[0]["event"], "batch committed");
    assert_eq!(lines[0]["level"], "info");
    assert_eq!(lines[0]["service"], "collector");
    assert_eq!(lines[0]["request_id"], "r-1");
    assert_eq!(lines[0]["rows"], 3);
    assert!(lines[0].get("tenant_id").is_none());
    assert_eq!(lines[1]["tenant_id"], "t-1");
    assert_eq!(lines[1]["node_id"], "n-1");
    assert_eq!(lines[2]["service"], "vpnpanel");
}

#[test]
fn an_event_named_by_a_field_keeps_its_message() {
    let lines = logged(|| {
        tracing::info!(event = "node_joined", "welcome");
        tracing::info!(event = "node_left");
    });
    assert_eq!(lines[0]["event"], "node_joined");
    assert_eq!(lines[0]["message"], "welcome");
    assert_eq!(lines[1]["event"], "node_left");
    assert!(lines[1].get("message").is_none());
}

#[test]
fn a_line_stays_one_line_whatever_it_says() {
    let lines = logged(|| tracing::info!(path = "a\nb\"c", "two\nlines"));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event"], "two\nlines");
    assert_eq!(lines[0]["path"], "a\nb\"c");
}

#[test]
fn an_error_is_logged_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot commit")]
    struct Outer(#[source] io::Error);
    let lines = logged(|| {
        let error = Outer(io::Error::other("disk full"));
        tracing::error!(error = &error as &dyn std::error::Error, "batch failed");
    });
    assert_eq!(lines[0]["error"], "cannot commit: disk full");
}
