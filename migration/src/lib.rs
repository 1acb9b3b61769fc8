//! Schema migrations, Postgres and SQLite
