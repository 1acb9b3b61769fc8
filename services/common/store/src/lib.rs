//! Entities, queries, ledger, change log: the only crate that knows SQL
