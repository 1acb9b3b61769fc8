//! A writing transaction: one moment, the changes it makes, what the audit log says about them, and
//! the change log appended last.

use std::ops::Deref;

use sea_orm::{
    AccessMode, DatabaseTransaction, IsolationLevel, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use crate::audit::{self, Attribution};
use crate::changes::{self, Entry};
use crate::connect::{Backend, Store};
use crate::error::Result;

/// Rolled back when dropped.
pub(crate) struct Write {
    transaction: DatabaseTransaction,
    store: Store,
    changes: Vec<Entry>,
    pub(crate) record: audit::Record,
    pub(crate) now: i64,
}

impl Write {
    /// Notes a change, to be appended to the log at the commit.
    pub(crate) fn changed(&mut self, change: Entry) {
        self.changes.push(change);
    }

    /// Kind of the database.
    pub(crate) fn backend(&self) -> Backend {
        self.store.backend()
    }

    /// For whom it is, where the audit log has to say so.
    pub(crate) fn acting(&self) -> Option<&Attribution> {
        self.store.acting.as_deref()
    }

    /// Appends to the audit log and the changes to theirs, commits, and rings the doorbell.
    pub(crate) async fn commit(self) -> Result<()> {
        audit::append(&self).await?;
        changes::append(&self.transaction, &self.changes, self.now).await?;
        self.transaction.commit().await?;
        if !self.changes.is_empty() {
            self.store.inner.doorbell.ring();
        }
        Ok(())
    }
}

impl Deref for Write {
    type Target = DatabaseTransaction;

    fn deref(&self) -> &DatabaseTransaction {
        &self.transaction
    }
}

impl Store {
    pub(crate) async fn begin(&self) -> Result<Write> {
        let transaction = self
            .inner
            .write
            .begin_with_options(TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            })
            .await?;
        Ok(Write {
            transaction,
            store: self.clone(),
            changes: Vec::new(),
            record: audit::Record::default(),
            now: self.now_ms(),
        })
    }

    /// A reading transaction in which all statements see the same moment.
    pub(crate) async fn snapshot(&self) -> Result<DatabaseTransaction> {
        let options = match self.backend() {
            Backend::Postgres => TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            },
            Backend::Sqlite => TransactionOptions::default(),
        };
        Ok(self.inner.read.begin_with_options(options).await?)
    }
}
