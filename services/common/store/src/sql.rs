//! Statements that are written as SQL: those on sets, and those whose locks and order matter. One
//! text serves both databases; the few places where they differ are tokens.

use sea_orm::{ConnectionTrait, DatabaseBackend, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use crate::error::StoreError;

/// A statement out of a text with tokens: `{for_update}` and `{for_share}` lock the rows read on
/// Postgres (SQLite has one writer, which holds everything). The former is the lock that an
/// UPDATE takes, so that rows which refer to a locked one can still be inserted;
/// `{for_update_free}` leaves out rows that somebody else has locked, and `{for_update_x}` locks
/// the rows of the joined table `x` alone.
pub(crate) fn statement(
    db: &impl ConnectionTrait,
    text: impl Into<String>,
    values: Vec<Value>,
) -> Statement {
    let backend = db.get_database_backend();
    let mut text = text.into();
    if text.contains("{for_") {
        let postgres = backend == DatabaseBackend::Postgres;
        let lock = |words| if postgres { words } else { "" };
        text = text
            .replace("{for_update}", lock("FOR NO KEY UPDATE"))
            .replace("{for_update_l}", lock("FOR NO KEY UPDATE OF l"))
            .replace("{for_update_m}", lock("FOR NO KEY UPDATE OF m"))
            .replace("{for_update_p}", lock("FOR NO KEY UPDATE OF p"))
            .replace(
                "{for_update_n_free}",
                lock("FOR NO KEY UPDATE OF n SKIP LOCKED"),
            )
            .replace(
                "{for_update_u_free}",
                lock("FOR NO KEY UPDATE OF u SKIP LOCKED"),
            )
            .replace("{for_update_free}", lock("FOR NO KEY UPDATE SKIP LOCKED"))
            .replace("{for_share}", lock("FOR SHARE"));
    }
    Statement::from_sql_and_values(backend, text, values)
}

/// All rows.
pub(crate) async fn all(
    db: &impl ConnectionTrait,
    text: impl Into<String>,
    values: Vec<Value>,
) -> Result<Vec<QueryResult>, DbErr> {
    db.query_all_raw(statement(db, text, values)).await
}

/// The first row.
pub(crate) async fn one(
    db: &impl ConnectionTrait,
    text: impl Into<String>,
    values: Vec<Value>,
) -> Result<Option<QueryResult>, DbErr> {
    db.query_one_raw(statement(db, text, values)).await
}

/// The number of rows changed.
pub(crate) async fn run(
    db: &impl ConnectionTrait,
    text: impl Into<String>,
    values: Vec<Value>,
) -> Result<u64, DbErr> {
    Ok(db
        .execute_raw(statement(db, text, values))
        .await?
        .rows_affected())
}

/// Reads a column by its place.
pub(crate) fn get<T: sea_orm::TryGetable>(row: &QueryResult, index: usize) -> Result<T, DbErr> {
    row.try_get_by_index(index)
}

/// A set of ids as one value; use it with [`in_ids`].
pub(crate) fn ids<I>(db: &impl ConnectionTrait, ids: I) -> Value
where
    I: IntoIterator,
    I::Item: Into<Uuid>,
{
    let ids = ids.into_iter().map(Into::into);
    match db.get_database_backend() {
        DatabaseBackend::Postgres => ids.collect::<Vec<Uuid>>().into(),
        _ => {
            let mut text = String::from("[");
            for (index, id) in ids.enumerate() {
                text.push_str(if index == 0 { "\"" } else { ",\"" });
                text.push_str(&id.simple().to_string());
                text.push('"');
            }
            text.push(']');
            text.into()
        }
    }
}

/// The condition that a column is in the set of ids bound as parameter `number`.
pub(crate) fn in_ids(db: &impl ConnectionTrait, number: usize) -> String {
    match db.get_database_backend() {
        DatabaseBackend::Postgres => format!("= ANY(${number})"),
        _ => format!("IN (SELECT unhex(value) FROM json_each(${number}))"),
    }
}

/// A counted number of bytes on its way into a signed column.
///
/// # Errors
/// [`StoreError::InvalidArgument`] for one that it cannot hold: it is refused, never cut.
pub(crate) fn stored(bytes: u64) -> Result<i64, StoreError> {
    i64::try_from(bytes).map_err(|_| StoreError::InvalidArgument {
        what: "an amount of bytes",
        reason: format!("is too large to be counted: {bytes}"),
    })
}

/// A limit, version or number on its way into a signed column; none comes near 2⁶³.
pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A byte count on its way out of a signed column.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
