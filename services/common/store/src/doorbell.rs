//! Tells those who tail the change log that there is something new: after the commit, coalesced,
//! and never as part of a transaction (NOTIFY inside one serialises all commits of the server).

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

const CHANNEL: &str = "vpnpanel_changes";
const RETRY: Duration = Duration::from_secs(2);

pub(crate) struct Doorbell {
    rung: watch::Sender<u64>,
    /// Wakes the task that rings other processes' bells.
    outward: Option<Arc<Notify>>,
    tasks: Vec<AbortHandle>,
}

impl Doorbell {
    /// For a database that this process has for itself.
    pub(crate) fn local() -> Self {
        Self {
            rung: watch::Sender::new(0),
            outward: None,
            tasks: Vec::new(),
        }
    }

    /// For a database that other processes write to as well.
    pub(crate) fn postgres(pool: PgPool) -> Self {
        let rung = watch::Sender::new(0);
        let outward = Arc::new(Notify::new());
        let tasks = vec![
            tokio::spawn(ring_others(pool.clone(), Arc::clone(&outward))).abort_handle(),
            tokio::spawn(listen(pool, rung.clone())).abort_handle(),
        ];
        Self {
            rung,
            outward: Some(outward),
            tasks,
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.rung.subscribe()
    }

    /// To be called after a commit that appended to the change log.
    pub(crate) fn ring(&self) {
        self.rung.send_modify(|count| *count += 1);
        if let Some(outward) = &self.outward {
            outward.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Any number of rings while one NOTIFY is under way become one more.
async fn ring_others(pool: PgPool, outward: Arc<Notify>) {
    loop {
        outward.notified().await;
        let rung = sqlx::query("SELECT pg_notify($1, '')")
            .bind(CHANNEL)
            .execute(&pool)
            .await;
        if let Err(error) = rung {
            tracing::debug!(%error, "other processes were not notified of a change; they poll");
        }
    }
}

async fn listen(pool: PgPool, rung: watch::Sender<u64>) {
    loop {
        if let Err(error) = listen_once(&pool, &rung).await {
            tracing::debug!(%error, "the change notifications broke off; polling until they are back");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen_once(pool: &PgPool, rung: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.ignore_pool_close_event(true);
    listener.listen(CHANNEL).await?;
    loop {
        // `None`: the connection was lost, and what was notified meanwhile with it.
        listener.try_recv().await?;
        rung.send_modify(|count| *count += 1);
    }
}
