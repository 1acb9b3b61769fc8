//! Many rows as the parameters of one statement: arrays that are unnested on Postgres, a JSON
//! text that is walked on SQLite. One statement per table and batch, whatever its size.

use std::fmt::Write;

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DatabaseBackend, Value};
use uuid::Uuid;

/// Type of a column. No column of a set may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    Big,
    Bytes,
    Text,
    /// A JSON text, for a JSON column.
    Json,
}

/// One value of a row.
#[derive(Debug, Clone)]
pub(crate) enum Cell<'a> {
    Id(Uuid),
    Big(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
}

/// Rows on their way into a statement.
pub(crate) struct RowSet {
    columns: &'static [(&'static str, Column)],
    rows: usize,
    form: Form,
}

enum Form {
    Arrays(Vec<Vec<Value>>),
    Json(String),
}

impl RowSet {
    pub(crate) fn new(
        db: &impl ConnectionTrait,
        columns: &'static [(&'static str, Column)],
    ) -> Self {
        let form = match db.get_database_backend() {
            DatabaseBackend::Postgres => Form::Arrays(vec![Vec::new(); columns.len()]),
            _ => Form::Json(String::from("[")),
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
        match &mut self.form {
            Form::Arrays(arrays) => {
                for (array, cell) in arrays.iter_mut().zip(cells) {
                    array.push(match cell {
                        Cell::Id(id) => id.into(),
                        Cell::Big(number) => number.into(),
                        Cell::Bytes(bytes) => bytes.to_vec().into(),
                        Cell::Text(text) => text.into(),
                    });
                }
            }
            Form::Json(text) => {
                text.push_str(if self.rows == 0 { "[" } else { ",[" });
                for (index, cell) in cells.into_iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    push_json(text, cell);
                }
                text.push(']');
            }
        }
        self.rows += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What stands after FROM, as a table `s`, when the set's first parameter is `first`.
    pub(crate) fn source(&self, first: usize) -> String {
        match self.form {
            Form::Arrays(_) => {
                let mut arrays = String::new();
                let mut names = String::new();
                for (index, (name, column)) in self.columns.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let kind = match column {
                        Column::Id => "uuid",
                        Column::Big => "bigint",
                        Column::Bytes => "bytea",
                        Column::Text => "text",
                        Column::Json => "text[]::jsonb",
                    };
                    // Writing into a String does not fail.
                    let _ = write!(arrays, "{separator}${}::{kind}[]", first + index);
                    let _ = write!(names, "{separator}{name}");
                }
                format!("unnest({arrays}) AS s({names})")
            }
            Form::Json(_) => {
                let mut fields = String::new();
                for (index, (name, column)) in self.columns.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let _ = match column {
                        Column::Id | Column::Bytes => {
                            write!(fields, "{separator}unhex(value ->> {index}) AS {name}")
                        }
                        Column::Big | Column::Text | Column::Json => {
                            write!(fields, "{separator}value ->> {index} AS {name}")
                        }
                    };
                }
                format!("(SELECT {fields} FROM json_each(${first})) AS s")
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
                        Column::Bytes => ArrayType::Bytes,
                        Column::Text | Column::Json => ArrayType::String,
                    };
                    Value::Array(kind, Some(Box::new(array)))
                })
                .collect(),
            Form::Json(mut text) => {
                text.push(']');
                vec![text.into()]
            }
        }
    }
}

fn push_json(text: &mut String, cell: Cell<'_>) {
    match cell {
        Cell::Id(id) => {
            let mut buffer = Uuid::encode_buffer();
            text.push('"');
            text.push_str(id.simple().encode_lower(&mut buffer));
            text.push('"');
        }
        Cell::Big(number) => {
            let _ = write!(text, "{number}");
        }
        Cell::Bytes(bytes) => {
            text.push('"');
            text.push_str(&hex::encode(bytes));
            text.push('"');
        }
        Cell::Text(value) => text.push_str(&serde_json::Value::from(value).to_string()),
    }
}
