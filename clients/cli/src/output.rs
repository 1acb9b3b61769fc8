//! How answers are written: tables for people; JSON, YAML and NDJSON for programs. Fields that the
//! contract declares secret are written when they are asked for, and read `[redacted]` otherwise.

use std::io::Write as _;

use comfy_table::{Table, presets};
use serde_json::Value;
use yaml_rust2::{YamlEmitter, YamlLoader};

use crate::failure::Failure;
use crate::units;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
    Ndjson,
}

/// Writes text to stdout; a reader that has seen enough (`| head`) is no error.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Local(format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes to stderr what is for people alone.
pub(crate) fn note(text: &str) {
    // There is nowhere left to tell that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a resource or a list of them. `columns` are paths of fields.
pub(crate) fn show(format: Format, value: &Value, columns: &[&str]) -> Result<(), Failure> {
    text(&written(format, value, columns)?)
}

fn written(format: Format, value: &Value, columns: &[&str]) -> Result<String, Failure> {
    let json = |value: &Value, pretty: bool| {
        let text = if pretty {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        text.map_err(|e| Failure::Local(e.to_string()))
    };
    Ok(match (format, value) {
        (Format::Json, value) => json(value, true)? + "\n",
        (Format::Ndjson, Value::Array(items)) => {
            let mut lines = String::new();
            for item in items {
                lines.push_str(&json(item, false)?);
                lines.push('\n');
            }
            lines
        }
        (Format::Ndjson, value) => json(value, false)? + "\n",
        (Format::Yaml, value) => yaml(&json(value, false)?)?,
        (Format::Table, Value::Array(items)) => table(items, columns),
        (Format::Table, value) => fields(value),
    })
}

/// JSON is YAML, so that the reader of YAML makes the tree that is written.
fn yaml(json: &str) -> Result<String, Failure> {
    let failed = |e: String| Failure::Local(format!("the answer is no YAML: {e}"));
    let mut out = String::new();
    for document in YamlLoader::load_from_str(json).map_err(|e| failed(e.to_string()))? {
        YamlEmitter::new(&mut out)
            .dump(&document)
            .map_err(|e| failed(e.to_string()))?;
        out.push('\n');
    }
    Ok(out)
}

fn table(items: &[Value], columns: &[&str]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let title = |column: &&str| heading(column).to_uppercase();
    table.set_header(columns.iter().map(title));
    for item in items {
        table.add_row(columns.iter().map(|column| {
            let value = column.split('.').fold(item, |value, name| &value[name]);
            cell(column, value)
        }));
    }
    lines(&table)
}

/// One resource: a line for each field that has something in it.
fn fields(value: &Value) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let shown = cell(name, value);
            if !shown.is_empty() {
                table.add_row([heading(name), shown]);
            }
        }
    }
    lines(&table)
}

fn lines(table: &Table) -> String {
    let lines = table.lines().map(|line| line.trim().to_owned() + "\n");
    lines.collect()
}

/// `dataLimitBytes` is `data limit`.
fn heading(path: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    let name = name.strip_suffix("Bytes").unwrap_or(name);
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// A value in human units. What a server sends never reaches a terminal as control characters.
fn cell(path: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::Bool(false) => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::String(text) if path.ends_with("Bytes") => text
            .parse()
            .map_or_else(|_| text.clone(), units::shown_bytes),
        Value::String(text) if text.contains("_UNSPECIFIED") => String::new(),
        Value::String(text) => plain(text),
        Value::Array(items) => {
            let items = items.iter().map(|item| cell("", item));
            items.collect::<Vec<_>>().join(", ")
        }
        Value::Object(_) => value.to_string(),
        Value::Number(number) => number.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).collect()
}

/// `USER_STATUS_ACTIVE` is `active`, wherever the contract has such an enum value.
fn plain(text: &str) -> String {
    let prefixed = ["_STATUS_", "_STATE_", "_KIND_", "OUTCOME_"];
    if text.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
        for part in prefixed {
            if let Some((_, name)) = text.split_once(part) {
                return name.to_lowercase();
            }
        }
    }
    text.to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn users() -> Value {
        json!([
            {"username": "ada", "status": "USER_STATUS_ACTIVE", "usedBytes": "0"},
            {"username": "b\u{1b}[2J", "status": "USER_STATUS_LIMITED", "usedBytes": "20000000000"},
        ])
    }

    #[test]
    fn a_table_has_human_units_and_no_control_characters() {
        let columns = ["username", "status", "usedBytes"];
        let shown = written(Format::Table, &users(), &columns).unwrap();
        let words: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words[0], ["USERNAME", "STATUS", "USED"]);
        assert_eq!(words[1], ["ada", "active", "0", "B"]);
        assert_eq!(words[2], ["b[2J", "limited", "20", "GB"]);
    }

    #[test]
    fn programs_get_what_the_server_said() {
        let shown = written(Format::Json, &users(), &[]).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), users());
        let shown = written(Format::Ndjson, &users(), &[]).unwrap();
        assert_eq!(shown.lines().count(), 2);
        let shown = written(Format::Yaml, &users()[0], &[]).unwrap();
        assert!(shown.contains("username: ada\n"), "{shown}");
        assert!(shown.contains("usedBytes: \"0\""), "{shown}");
    }
}
