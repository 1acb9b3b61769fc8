//! JSON values as YAML in blocks, as people expect a profile. Each text is written as JSON writes it:
//! such a text means the same in YAML 1.2 (section 5.7), whatever is in it, so that nothing of a name
//! or a password can become anything else. Keys are ours, and plain.

use std::fmt::{self, Write};

use serde_json::Value;
use zeroize::Zeroizing;

/// The text.
pub(super) fn text(value: &Value) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    // Writing to a String cannot fail.
    let _ = block(value, 0, &mut out);
    out
}

/// A list or an object, each item on a line of its own.
fn block(value: &Value, depth: usize, out: &mut String) -> fmt::Result {
    match value {
        Value::Object(fields) => {
            for (number, (key, value)) in fields.iter().enumerate() {
                // The first stands behind the dash of the item that the object is.
                if number > 0 || out.ends_with('\n') || out.is_empty() {
                    indent(depth, out);
                }
                write!(out, "{key}:")?;
                nested(value, depth + 1, out)?;
            }
            Ok(())
        }
        Value::Array(items) => {
            for item in items {
                indent(depth, out);
                out.push('-');
                if is_block(item) {
                    out.push(' ');
                    block(item, depth + 1, out)?;
                } else {
                    writeln!(out, " {item}")?;
                }
            }
            Ok(())
        }
        plain => writeln!(out, " {plain}"),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) -> fmt::Result {
    if is_block(value) {
        out.push('\n');
        block(value, depth, out)
    } else {
        writeln!(out, " {value}")
    }
}

/// What is empty is written in one line, as JSON does.
fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn indent(depth: usize, out: &mut String) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use yaml_rust2::{Yaml, YamlLoader};

    use super::*;

    /// By another reader.
    fn read(text: &str) -> Value {
        fn value(yaml: &Yaml) -> Value {
            match yaml {
                Yaml::String(text) => json!(text),
                Yaml::Integer(number) => json!(number),
                Yaml::Boolean(truth) => json!(truth),
                Yaml::Array(items) => items.iter().map(value).collect(),
                Yaml::Hash(fields) => fields
                    .iter()
                    .map(|(key, it)| (key.as_str().unwrap().to_owned(), value(it)))
                    .collect(),
                other => panic!("{other:?}"),
            }
        }
        let documents = YamlLoader::load_from_str(text).unwrap();
        assert_eq!(documents.len(), 1);
        value(&documents[0])
    }

    #[test]
    fn another_reader_reads_what_was_written() {
        let written = json!({
            "a-number": 5,
            "truth": true,
            "nothing": [],
            "texts": ["plain", "yes", "0123", "a: b # c", "\"quoted\" \\ \n\t\u{1}", "- x", "Köln 🇩🇪"],
            "things": [
                { "name": "one", "options": { "path": "/", "headers": { "Host": "a" } }, "ids": [1, 2] },
                { "name": "two", "nothing": {} },
            ],
            "last": { "of": "all" },
        });
        let text = text(&written);
        assert_eq!(read(&text), written, "{}", *text);
    }

    #[test]
    fn a_profile_is_read_by_another_reader() {
        use crate::subscription::{clash, endpoint::tests::subscribed};
        let endpoints = subscribed();
        let profile = read(&clash(&endpoints));
        let proxies = profile["proxies"].as_array().unwrap();
        assert_eq!(proxies.len(), endpoints.len());
        for (proxy, endpoint) in proxies.iter().zip(&endpoints) {
            assert_eq!(proxy["name"], endpoint.name);
            assert_eq!(proxy["port"], endpoint.port);
        }
        assert_eq!(profile["proxy-groups"][1]["proxies"][9], endpoints[9].name);
    }
}
