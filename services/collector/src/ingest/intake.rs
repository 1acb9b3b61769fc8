//! The writers' end of the queue, where they take turns: whoever is at it takes all that waits, up to
//! the size of a transaction.

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use vpnpanel_link::collector::ingest::{Reply, Submission};

use super::Queued;

/// The end of the queue that writers take from.
#[derive(Debug)]
pub(crate) struct Intake(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    queue: mpsc::Receiver<Queued>,
    /// What no longer fitted into the group before.
    left: Option<Queued>,
}

/// What goes into one transaction.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) submissions: Vec<Submission>,
    pub(super) replies: Vec<oneshot::Sender<Reply>>,
    pub(super) rows: u32,
}

impl Intake {
    pub(super) fn new(queue: mpsc::Receiver<Queued>) -> Self {
        Self(Mutex::new(Waiting { queue, left: None }))
    }

    /// Waits for something to commit, and takes it with all that waits as well, up to `rows`; one
    /// submission is always taken whole. `None` when the process stops.
    pub(super) async fn group(&self, rows: u32, stop: &CancellationToken) -> Option<Group> {
        tokio::select! {
            biased;
            group = async { self.0.lock().await.group(rows).await } => group,
            () = stop.cancelled() => None,
        }
    }
}

impl Waiting {
    /// What is waited for here is not lost when the wait is given up: nothing is taken before.
    async fn group(&mut self, most: u32) -> Option<Group> {
        let mut next = match self.left.take() {
            Some(left) => Some(left),
            None => self.queue.recv().await,
        };
        let mut group = Group::default();
        while let Some(queued) = next.take() {
            let rows = group.rows.saturating_add(queued.rows);
            if !group.submissions.is_empty() && rows > most {
                self.left = Some(queued);
                break;
            }
            group.rows = rows;
            group.submissions.push(queued.submission);
            group.replies.push(queued.reply);
            // the room goes back now, so that streams gather the next group during this commit
            drop(queued.room);
            next = self.queue.try_recv().ok();
        }
        (!group.submissions.is_empty()).then_some(group)
    }
}
