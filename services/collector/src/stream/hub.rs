//! The streams that are open in this process, by node: whom a change of the log concerns, which
//! stream a newer one supersedes, what is cut when a certificate is revoked. What a stream is told
//! here is a level and not a queue: the newest revision, and whether to end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use vpnpanel_domain::NodeId;
use vpnpanel_link::{Generation, Revision};

/// What a stream is to take notice of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Signal {
    /// The change log has reached this revision with something that concerns the node.
    pub(crate) revision: Revision,
    /// Grows when the node may have to be told of new allowances.
    pub(crate) allowances: u64,
    /// Grows when the node may have been given commands.
    pub(crate) commands: u64,
    /// Grows when the database waits for the node's report.
    pub(crate) awaited: u64,
    /// Grows when the stream is to be opened anew, some time soon.
    pub(crate) renewals: u64,
    /// The stream is to end.
    pub(crate) end: Option<End>,
}

/// Why a stream is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A newer stream of the node.
    Superseded,
    /// The certificate is no longer accepted.
    CertificateRefused(&'static str),
}

/// A stream that is live.
#[derive(Debug)]
struct Live {
    generation: Generation,
    serial: Arc<[u8]>,
    signal: watch::Sender<Signal>,
}

/// All streams of this process.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    live: Mutex<HashMap<NodeId, Live>>,
}

/// A place in the hub, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    hub: Arc<Hub>,
    node: NodeId,
    generation: Generation,
}

impl Hub {
    /// Takes a stream in that the database has just given `generation`, and ends the one before.
    /// Signals come over the receiver. An older stream that comes late is told at once.
    pub(crate) fn enter(
        self: &Arc<Self>,
        node: NodeId,
        generation: Generation,
        serial: Arc<[u8]>,
    ) -> (Place, watch::Receiver<Signal>) {
        let (signal, receiver) = watch::channel(Signal::default());
        let mut live = self.lock();
        match live.get(&node) {
            Some(newer) if newer.generation > generation => {
                end(&signal, End::Superseded);
            }
            older => {
                if let Some(older) = older {
                    end(&older.signal, End::Superseded);
                }
                live.insert(
                    node,
                    Live {
                        generation,
                        serial,
                        signal,
                    },
                );
            }
        }
        drop(live);
        (
            Place {
                hub: Arc::clone(self),
                node,
                generation,
            },
            receiver,
        )
    }

    /// Tells the streams of `nodes` that the log has reached `revision`.
    pub(crate) fn changed(&self, nodes: impl IntoIterator<Item = NodeId>, revision: Revision) {
        let live = self.lock();
        for node in nodes {
            if let Some(stream) = live.get(&node) {
                advance(&stream.signal, revision);
            }
        }
    }

    /// Tells the streams of `nodes` to look at their allowances.
    pub(crate) fn allowances(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let live = self.lock();
        for node in nodes {
            if let Some(stream) = live.get(&node) {
                stream.signal.send_modify(|signal| signal.allowances += 1);
            }
        }
    }

    /// Tells the streams of `nodes` to look for commands.
    pub(crate) fn commands(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let live = self.lock();
        for node in nodes {
            if let Some(stream) = live.get(&node) {
                stream.signal.send_modify(|signal| signal.commands += 1);
            }
        }
    }

    /// Tells every stream that the log has reached `revision`, and that there may be anything in it.
    pub(crate) fn all_changed(&self, revision: Revision) {
        for stream in self.lock().values() {
            advance(&stream.signal, revision);
            stream.signal.send_modify(|signal| signal.commands += 1);
        }
    }

    /// Tells the stream of a node that the database waits for its report.
    pub(crate) fn awaited(&self, node: NodeId) {
        if let Some(stream) = self.lock().get(&node) {
            stream.signal.send_modify(|signal| signal.awaited += 1);
        }
    }

    /// Has every stream opened anew.
    pub(crate) fn renew_all(&self) {
        for stream in self.lock().values() {
            stream.signal.send_modify(|signal| signal.renewals += 1);
        }
    }

    /// All streams, by their numbers.
    pub(crate) fn generations(&self) -> Vec<(NodeId, Generation)> {
        self.lock()
            .iter()
            .map(|(node, live)| (*node, live.generation))
            .collect()
    }

    /// Ends the stream of a node if it is still this one.
    pub(crate) fn supersede(&self, node: NodeId, generation: Generation) {
        let live = self.lock();
        let stream = live.get(&node);
        if let Some(stream) = stream.filter(|stream| stream.generation == generation) {
            end(&stream.signal, End::Superseded);
        }
    }

    /// Ends every stream: each node's next Hello says what it knows.
    pub(crate) fn supersede_all(&self) {
        for stream in self.lock().values() {
            end(&stream.signal, End::Superseded);
        }
    }

    /// The certificates of all streams.
    pub(crate) fn serials(&self) -> Vec<(NodeId, Arc<[u8]>)> {
        self.lock()
            .iter()
            .map(|(node, live)| (*node, Arc::clone(&live.serial)))
            .collect()
    }

    /// Ends the stream of a node if it still shows this certificate.
    pub(crate) fn refuse(&self, node: NodeId, serial: &[u8], why: &'static str) {
        if let Some(stream) = self
            .lock()
            .get(&node)
            .filter(|live| *live.serial == *serial)
        {
            end(&stream.signal, End::CertificateRefused(why));
        }
    }

    fn leave(&self, node: NodeId, generation: Generation) {
        let mut live = self.lock();
        if live
            .get(&node)
            .is_some_and(|stream| stream.generation == generation)
        {
            live.remove(&node);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Live>> {
        // the map is whole after any panic: every change is one call
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.leave(self.node, self.generation);
    }
}

fn end(signal: &watch::Sender<Signal>, why: End) {
    signal.send_modify(|signal| signal.end = signal.end.or(Some(why)));
}

fn advance(signal: &watch::Sender<Signal>, revision: Revision) {
    signal.send_if_modified(|signal| {
        let moved = revision > signal.revision;
        signal.revision = signal.revision.max(revision);
        moved
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_parts(1, [n; 10])
    }

    #[test]
    fn the_newest_stream_of_a_node_stays_whichever_comes_last() {
        let hub = Arc::new(Hub::default());
        let (_first, first) = hub.enter(node(1), Generation(7), Arc::from([1]));
        let (_third, third) = hub.enter(node(1), Generation(9), Arc::from([1]));
        let (late, second) = hub.enter(node(1), Generation(8), Arc::from([1]));
        assert_eq!(first.borrow().end, Some(End::Superseded));
        assert_eq!(second.borrow().end, Some(End::Superseded));
        assert_eq!(third.borrow().end, None);
        drop(late);
        assert_eq!(
            hub.serials().len(),
            1,
            "an older stream takes nobody's place along"
        );
    }

    #[test]
    fn a_change_reaches_the_streams_it_concerns_and_revisions_only_grow() {
        let hub = Arc::new(Hub::default());
        let (_a, mut a) = hub.enter(node(1), Generation(1), Arc::from([1]));
        let (_b, b) = hub.enter(node(2), Generation(1), Arc::from([2]));
        hub.changed([node(1), node(3)], Revision(5));
        assert!(a.has_changed().unwrap());
        assert!(!b.has_changed().unwrap());
        assert_eq!(a.borrow_and_update().revision, Revision(5));
        hub.changed([node(1)], Revision(4));
        assert!(!a.has_changed().unwrap());
        hub.all_changed(Revision(6));
        assert_eq!(b.borrow().revision, Revision(6));
    }

    #[test]
    fn a_revoked_certificate_ends_only_the_stream_that_shows_it() {
        let hub = Arc::new(Hub::default());
        let (_place, stream) = hub.enter(node(1), Generation(1), Arc::from([1]));
        hub.refuse(node(1), &[2], "revoked");
        assert_eq!(stream.borrow().end, None);
        hub.refuse(node(1), &[1], "revoked");
        assert_eq!(
            stream.borrow().end,
            Some(End::CertificateRefused("revoked"))
        );
    }
}
