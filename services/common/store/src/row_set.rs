//! Many rows as the parameters of one statement, whatever their number: arrays that are unnested on
//! Postgres. On SQLite, ids, keys and numbers lie side by side in a blob, each at its place (a number
//! as 20 characters: SQLite reads those without a parser), and a JSON array is walked, an element a
//! row, that holds what has no fixed length. Reading each value out of JSON would cost more than
//! writing the row.

use std::fmt::Write;

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DatabaseBackend, Value};
use uuid::Uuid;

/// Type of a column. No column of a set may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    /// 16 bytes that are no UUID: epochs, incarnations.
    Key,
    Big,
    /// Bytes of any length.
    Bytes,
    Text,
    /// A JSON text, for a JSON column.
    Json,
}

/// One value of a row.
#[derive(Debug, Clone)]
pub(crate) enum Cell<'a> {
    Id(Uuid),
    Key(&'a [u8; 16]),
    Big(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
}

/// Characters of a number in the blob: those of `i64::MIN`.
const DIGITS: usize = 20;

/// Rows on their way into a statement.
pub(crate) struct RowSet {
    columns: &'static [(&'static str, Column)],
    rows: usize,
    form: Form,
}

enum Form {
    Arrays(Vec<Vec<Value>>),
    /// What has its place, and the array of the rest.
    Places(Vec<u8>, String),
}

impl Column {
    const fn takes(self, cell: &Cell<'_>) -> bool {
        matches!(
            (self, cell),
            (Self::Id, Cell::Id(_))
                | (Self::Key, Cell::Key(_))
                | (Self::Big, Cell::Big(_))
                | (Self::Bytes, Cell::Bytes(_))
                | (Self::Text | Self::Json, Cell::Text(_))
        )
    }

    /// Bytes that it takes in the blob; `None` when it stands in the JSON array.
    const fn width(self) -> Option<usize> {
        match self {
            Self::Id | Self::Key => Some(16),
            Self::Big => Some(DIGITS),
            Self::Bytes | Self::Text | Self::Json => None,
        }
    }
}

impl RowSet {
    pub(crate) fn new(
        db: &impl ConnectionTrait,
        columns: &'static [(&'static str, Column)],
    ) -> Self {
        let form = match db.get_database_backend() {
            DatabaseBackend::Postgres => Form::Arrays(vec![Vec::new(); columns.len()]),
            _ => Form::Places(Vec::new(), String::from("[")),
        };
        Self {
            columns,
            rows: 0,
            form,
        }
    }

    /// Appends a row; its cells are in the order and of the types of the columns.
    pub(crate) fn push<const N: usize>(&mut self, cells: [Cell<'_>; N]) {
        debug_assert_eq!(N, self.columns.len());
        debug_assert!(
            self.columns
                .iter()
                .zip(&cells)
                .all(|(it, cell)| it.1.takes(cell)),
            "cells of other types than {:?}",
            self.columns
        );
        match &mut self.form {
            Form::Arrays(arrays) => {
                for (array, cell) in arrays.iter_mut().zip(cells) {
                    array.push(match cell {
                        Cell::Id(id) => id.into(),
                        Cell::Key(key) => key.to_vec().into(),
                        Cell::Big(number) => number.into(),
                        Cell::Bytes(bytes) => bytes.to_vec().into(),
                        Cell::Text(text) => text.into(),
                    });
                }
            }
            Form::Places(places, rest) => {
                rest.push_str(if self.rows == 0 { "" } else { "," });
                let before = rest.len();
                for cell in cells {
                    match cell {
                        Cell::Id(id) => places.extend_from_slice(id.as_bytes()),
                        Cell::Key(key) => places.extend_from_slice(key),
                        Cell::Big(number) => push_number(places, number),
                        Cell::Bytes(_) | Cell::Text(_) => {
                            rest.push(if rest.len() == before { '[' } else { ',' });
                            push_json(rest, cell);
                        }
                    }
                }
                rest.push(if rest.len() == before { '0' } else { ']' });
            }
        }
        self.rows += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What stands after FROM, as a table `s`, when the set's first parameter is `first`.
    pub(crate) fn source(&self, first: usize) -> String {
        // Writing into a String does not fail.
        match self.form {
            Form::Arrays(_) => {
                let mut arrays = String::new();
                let mut names = String::new();
                for (index, (name, column)) in self.columns.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let kind = match column {
                        Column::Id => "uuid",
                        Column::Big => "bigint",
                        Column::Key | Column::Bytes => "bytea",
                        Column::Text => "text",
                        Column::Json => "text[]::jsonb",
                    };
                    let _ = write!(arrays, "{separator}${}::{kind}[]", first + index);
                    let _ = write!(names, "{separator}{name}");
                }
                format!("unnest({arrays}) AS s({names})")
            }
            Form::Places(..) => {
                let row: usize = self
                    .columns
                    .iter()
                    .filter_map(|(_, column)| column.width())
                    .sum();
                // SQLite counts bytes from 1.
                let (mut place, mut rest) = (1, 0);
                let mut fields = String::new();
                for (index, (name, column)) in self.columns.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let Some(width) = column.width() else {
                        let _ = match column {
                            Column::Bytes => {
                                write!(fields, "{separator}unhex(value ->> {rest}) AS {name}")
                            }
                            _ => write!(fields, "{separator}value ->> {rest} AS {name}"),
                        };
                        rest += 1;
                        continue;
                    };
                    let bytes = format!("substr(${first}, key * {row} + {place}, {width})");
                    let _ = match column {
                        Column::Big => {
                            write!(fields, "{separator}CAST({bytes} AS INTEGER) AS {name}")
                        }
                        _ => write!(fields, "{separator}{bytes} AS {name}"),
                    };
                    place += width;
                }
                format!("(SELECT {fields} FROM json_each(${})) AS s", first + 1)
            }
        }
    }

    /// The parameters, to be appended to those before `first`.
    pub(crate) fn into_values(self) -> Vec<Value> {
        match self.form {
            Form::Arrays(arrays) => arrays
                .into_iter()
                .zip(self.columns)
                .map(|(array, (_, column))| {
                    let kind = match column {
                        Column::Id => ArrayType::Uuid,
                        Column::Big => ArrayType::BigInt,
                        Column::Key | Column::Bytes => ArrayType::Bytes,
                        Column::Text | Column::Json => ArrayType::String,
                    };
                    Value::Array(kind, Some(Box::new(array)))
                })
                .collect(),
            Form::Places(places, mut rest) => {
                rest.push(']');
                vec![places.into(), rest.into()]
            }
        }
    }
}

/// A number in its 20 characters, blanks before it.
fn push_number(places: &mut Vec<u8>, number: i64) {
    let mut digits = [b' '; DIGITS];
    let mut left = number.unsigned_abs();
    let mut at = DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        digits[at - 1] = b'-';
    }
    places.extend_from_slice(&digits);
}

fn push_json(text: &mut String, cell: Cell<'_>) {
    match cell {
        Cell::Bytes(bytes) => {
            text.push('"');
            text.push_str(&hex::encode(bytes));
            text.push('"');
        }
        Cell::Text(value) => text.push_str(&serde_json::Value::from(value).to_string()),
        // these have their place in the blob
        Cell::Id(_) | Cell::Key(_) | Cell::Big(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_twenty_characters_whatever_they_are() {
        for number in [0, 7, -1, i64::MAX, i64::MIN] {
            let mut places = Vec::new();
            push_number(&mut places, number);
            assert_eq!(places.len(), DIGITS);
            let text = String::from_utf8(places).expect("ASCII");
            assert_eq!(text.trim_start().parse(), Ok(number));
        }
    }
}
