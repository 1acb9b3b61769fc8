//! Work of many streams that the database does at once: streams hand in what they have and wait; one
//! task takes all that has gathered meanwhile. Under no load each is served at once, alone; in a storm
//! the more there is to do, the less each costs. What waits is bounded.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Streams whose work waits, at most. Others wait in line for a place.
const QUEUED: usize = 1_024;

/// The streams' end.
#[derive(Debug)]
pub(crate) struct Gatherer<T, R> {
    queue: mpsc::Sender<Waiting<T, R>>,
}

/// The end of the task that does the work.
#[derive(Debug)]
pub(crate) struct Gathered<T, R> {
    queue: mpsc::Receiver<Waiting<T, R>>,
    most: usize,
    weigh: fn(&T) -> usize,
}

#[derive(Debug)]
struct Waiting<T, R> {
    work: T,
    reply: oneshot::Sender<R>,
}

/// A queue whose work is done in groups that end when they weigh `most`.
pub(crate) fn gatherer<T, R>(
    most: usize,
    weigh: fn(&T) -> usize,
) -> (Gatherer<T, R>, Gathered<T, R>) {
    let (sender, receiver) = mpsc::channel(QUEUED);
    let gathered = Gathered {
        queue: receiver,
        most,
        weigh,
    };
    (Gatherer { queue: sender }, gathered)
}

impl<T, R> Gatherer<T, R> {
    /// Waits for its turn and for what comes of it.
    ///
    /// # Errors
    /// [`Error::Stopping`] when nobody does the work any more.
    pub(crate) async fn submit(&self, work: T) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { work, reply };
        self.queue
            .send(waiting)
            .await
            .map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)
    }
}

impl<T, R> Clone for Gatherer<T, R> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<T, R> Gathered<T, R> {
    /// Does the work until `stop`. `group` answers in the order of what it is given.
    pub(crate) async fn run<F>(mut self, stop: CancellationToken, group: impl Fn(Vec<T>) -> F)
    where
        F: Future<Output = Vec<R>>,
    {
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                first = self.queue.recv() => first,
            };
            let Some(first) = first else { return };
            let mut weight = (self.weigh)(&first.work);
            let (mut work, mut replies) = (vec![first.work], vec![first.reply]);
            while weight < self.most
                && let Ok(next) = self.queue.try_recv()
            {
                weight += (self.weigh)(&next.work);
                work.push(next.work);
                replies.push(next.reply);
            }
            for (reply, answer) in replies.into_iter().zip(group(work).await) {
                // A stream that has ended meanwhile needs no answer.
                let _gone = reply.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_done_together_and_everybody_gets_their_own_answer() {
        let (gatherer, gathered) = gatherer::<u32, u32>(3, |_| 1);
        let waiting = (1..=5).map(|number| {
            let gatherer = gatherer.clone();
            async move { gatherer.submit(number).await.unwrap() }
        });
        let waiting = futures::future::join_all(waiting);
        let stop = CancellationToken::new();
        let sizes = Mutex::new(Vec::new());
        let work = gathered.run(stop.clone(), |numbers: Vec<u32>| {
            sizes.lock().unwrap().push(numbers.len());
            std::future::ready(numbers.into_iter().map(|number| number * 10).collect())
        });
        let answers = async {
            let answers = waiting.await;
            stop.cancel();
            answers
        };
        let (answers, ()) = tokio::join!(answers, work);
        assert_eq!(answers, [10, 20, 30, 40, 50]);
        assert_eq!(*sizes.lock().unwrap(), [3, 2]);
        assert!(matches!(gatherer.submit(6).await, Err(Error::Stopping)));
    }
}
