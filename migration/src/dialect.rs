//! The few words in which the two databases' data definition differs. Migrations are written
//! once, with `{tokens}`; a line that only one of them may see begins with `{pg}` or `{lite}`, and
//! a semicolon inside a statement (the body of a trigger) is `{;}`.

use sea_orm_migration::SchemaManager;
use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseBackend, DbErr};

/// (token, Postgres, SQLite)
const TOKENS: [(&str, &str, &str); 10] = [
    ("{uuid}", "UUID", "BLOB"),
    ("{bytes}", "BYTEA", "BLOB"),
    ("{big}", "BIGINT", "INTEGER"),
    ("{bool}", "BOOLEAN", "INTEGER"),
    ("{json}", "JSONB", "TEXT"),
    ("{false}", "FALSE", "0"),
    // Compared byte by byte, so that an index serves prefix searches in any locale.
    ("{key}", "TEXT COLLATE \"C\"", "TEXT"),
    (
        "{identity}",
        "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "INTEGER PRIMARY KEY AUTOINCREMENT",
    ),
    ("{table}", "", "STRICT"),
    // Small rows that live under their primary key: on SQLite the key is the table.
    ("{clustered}", "", "STRICT, WITHOUT ROWID"),
];

/// What `{;}` is while a text is cut into its statements.
const INNER: &str = "\u{1}";

/// Runs data definition, statement by statement.
pub(crate) async fn run(manager: &SchemaManager<'_>, sql: &str) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let postgres = db.get_database_backend() == DatabaseBackend::Postgres;
    for statement in statements(sql, postgres) {
        db.execute_unprepared(&statement).await?;
    }
    Ok(())
}

fn statements(sql: &str, postgres: bool) -> Vec<String> {
    render(&sql.replace("{;}", INNER), postgres)
        .split(';')
        .filter(|statement| !statement.trim().is_empty())
        .map(|statement| statement.replace(INNER, ";"))
        .collect()
}

fn render(sql: &str, postgres: bool) -> String {
    let (keep, skip) = if postgres {
        ("{pg}", "{lite}")
    } else {
        ("{lite}", "{pg}")
    };
    let mut text: String = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with(skip))
        .flat_map(|line| [line, "\n"])
        .collect();
    text = text.replace(keep, "");
    for (token, on_postgres, on_sqlite) in TOKENS {
        text = text.replace(token, if postgres { on_postgres } else { on_sqlite });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_sees_its_own_words_and_lines() {
        let sql = "CREATE TABLE t (id {uuid}\n{pg}, x INT\n{lite}, y INT\n) {table}";
        assert_eq!(render(sql, true), "CREATE TABLE t (id UUID\n, x INT\n) \n");
        assert_eq!(
            render(sql, false),
            "CREATE TABLE t (id BLOB\n, y INT\n) STRICT\n"
        );
    }

    #[test]
    fn a_semicolon_inside_a_statement_does_not_end_it() {
        let sql = "CREATE TRIGGER t BEGIN SELECT 1{;} END;\nDROP TABLE x;\n";
        let text = ["CREATE TRIGGER t BEGIN SELECT 1; END", "\nDROP TABLE x"];
        assert_eq!(statements(sql, false), text);
    }
}
