//! The JSON line: `timestamp level event service request_id tenant_id node_id target`, then the
//! event's own fields and those of the spans around it, flat (the innermost wins). `event` is the
//! field of that name, else the message.

use std::fmt;
use std::io::Write;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Keys that every line shares come first, in this order.
const LEADING: [&str; 4] = ["service", "request_id", "tenant_id", "node_id"];

/// Writes each event as one line of JSON.
#[derive(Debug)]
pub struct JsonLayer<W> {
    process: &'static str,
    writer: W,
}

impl<W> JsonLayer<W> {
    /// `process` is the `service` of lines outside of any service's span.
    pub fn new(process: &'static str, writer: W) -> Self {
        Self { process, writer }
    }
}

/// A span's fields, kept with the span.
struct SpanFields(Map<String, Value>);

impl<S, W> Layer<S> for JsonLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Map::new();
        attributes.record(&mut Collect(&mut fields));
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut::<SpanFields>() {
            values.record(&mut Collect(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(SpanFields(span_fields)) = span.extensions().get::<SpanFields>() {
                for (key, value) in span_fields {
                    fields.insert(key.clone(), value.clone());
                }
            }
        }
        event.record(&mut Collect(&mut fields));
        let mut line = self.line(event, fields);
        line.push(b'\n');
        // A log that cannot be written has nobody to be told to.
        let _unwritable = self
            .writer
            .make_writer_for(event.metadata())
            .write_all(&line);
    }
}

impl<W> JsonLayer<W> {
    fn line(&self, event: &Event<'_>, mut fields: Map<String, Value>) -> Vec<u8> {
        let metadata = event.metadata();
        let mut timestamp = String::with_capacity(32);
        if SystemTime
            .format_time(&mut Writer::new(&mut timestamp))
            .is_err()
        {
            timestamp.clear();
        }
        // What is named by a field keeps its message beside it.
        let name = fields.remove("event").or_else(|| fields.remove("message"));
        let name = name.unwrap_or_else(|| metadata.name().into());
        fields
            .entry("service")
            .or_insert_with(|| self.process.into());

        let mut line = Vec::with_capacity(256);
        line.push(b'{');
        member(&mut line, "timestamp", &timestamp.into());
        member(
            &mut line,
            "level",
            &metadata.level().as_str().to_ascii_lowercase().into(),
        );
        member(&mut line, "event", &name);
        for key in LEADING {
            if let Some(value) = fields.remove(key) {
                member(&mut line, key, &value);
            }
        }
        member(&mut line, "target", &metadata.target().into());
        for (key, value) in &fields {
            member(&mut line, key, value);
        }
        line.push(b'}');
        line
    }
}

/// Appends `"key":value`, with a comma where one is due.
fn member(line: &mut Vec<u8>, key: &str, value: &Value) {
    if line.len() > 1 {
        line.push(b',');
    }
    // Writing to a Vec cannot fail, and neither can serializing a string or a Value.
    let _infallible = serde_json::to_writer(&mut *line, key);
    line.push(b':');
    let _infallible = serde_json::to_writer(&mut *line, value);
}

struct Collect<'a>(&'a mut Map<String, Value>);

impl Collect<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        // `log.*` and `otel.*` fields repeat, for the log crate and for traces, what the line says.
        if !field.name().starts_with("log.") && !field.name().starts_with("otel.") {
            self.0.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Collect<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let words = error.to_string();
            // Many errors repeat their source in their own words.
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = error.source();
        }
        self.put(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
