//! Which batches count. A batch is taken when it is the next of its epoch, and the epoch when
//! the one before it is complete; what came before is a duplicate, what comes too early a gap,
//! and what contradicts something committed a fork: two agents with one identity.

use vpnpanel_domain::NodeId;

use super::{BatchDigest, CursorAdvance, DeadLetter, Decoded, Ledger, Reply, Skipped, Successor};
use crate::collector::Cursor;
use crate::{Batch, BatchRef, Epoch, Payload, Seq};

/// What a batch is to the ledger.
enum Place {
    /// The next of its epoch; the first of one may name the epoch it follows.
    Next { follows: Option<Epoch> },
    /// Committed before.
    Duplicate,
    /// Something is missing: send again from here.
    Gap { from: (Epoch, Seq) },
    /// Contradicts what is committed.
    Fork { why: String },
}

impl Ledger<'_> {
    /// Takes a batch, and says in the reply what became of it.
    pub(super) fn take_batch(&mut self, decoded: Decoded, reply: &mut Reply) {
        let node = reply.node;
        match self.place(node, &decoded) {
            Place::Next { follows } => {
                self.advance(&decoded.batch, follows, reply);
                match decoded.payload {
                    Ok(payload) => self.take_payload(node, &payload, reply),
                    Err(reason) => {
                        let batch = decoded.batch;
                        self.effects.dead_letters.push(DeadLetter {
                            node,
                            batch,
                            reason,
                        });
                    }
                }
            }
            Place::Duplicate => self.acknowledge(node, decoded.batch.epoch, reply),
            Place::Gap { from } => {
                reply.resend_from.get_or_insert(from);
            }
            Place::Fork { why } => {
                self.quarantine(why.clone(), reply);
                self.effects.dead_letters.push(DeadLetter {
                    node,
                    batch: decoded.batch,
                    reason: why,
                });
            }
        }
    }

    fn place(&self, node: NodeId, decoded: &Decoded) -> Place {
        let Batch {
            epoch, seq, digest, ..
        } = decoded.batch;
        match self.loaded.cursors.get(&(node, epoch)) {
            // An epoch that another one has followed is sealed on the disk that wrote the other.
            Some(Cursor {
                seq: last,
                successor: Some(other),
                ..
            }) if seq > *last => Place::Fork {
                why: format!(
                    "batch {seq} of epoch {epoch} came after epoch {other} had followed it at batch {last}"
                ),
            },
            Some(cursor) if seq == cursor.seq.next() => Place::Next { follows: None },
            Some(cursor) if seq > cursor.seq => Place::Gap {
                from: (epoch, cursor.seq.next()),
            },
            Some(cursor) => {
                let committed = if seq == cursor.seq {
                    Some(&cursor.digest)
                } else {
                    self.loaded.digests.get(&(node, epoch, seq))
                };
                if committed.is_some_and(|committed| *committed != digest) {
                    Place::Fork {
                        why: format!("batch {seq} of epoch {epoch} came with other bytes"),
                    }
                } else {
                    Place::Duplicate
                }
            }
            None if seq > Seq(1) => Place::Gap {
                from: (epoch, Seq(1)),
            },
            None => match &decoded.payload {
                Ok(Payload {
                    predecessor: Some(before),
                    ..
                }) => self.place_first(node, epoch, *before),
                _ => Place::Next { follows: None },
            },
        }
    }

    /// The first batch of an epoch waits for the last of the epoch before.
    fn place_first(&self, node: NodeId, epoch: Epoch, before: BatchRef) -> Place {
        let Some(cursor) = self.loaded.cursors.get(&(node, before.epoch)) else {
            return Place::Gap {
                from: (before.epoch, Seq(1)),
            };
        };
        if cursor.seq < before.seq {
            return Place::Gap {
                from: (before.epoch, cursor.seq.next()),
            };
        }
        if cursor.seq > before.seq || cursor.digest != before.digest {
            let why = format!(
                "epoch {epoch} follows batch {} of epoch {}, but batch {} is committed there",
                before.seq, before.epoch, cursor.seq
            );
            return Place::Fork { why };
        }
        match cursor.successor {
            Some(other) if other != epoch => Place::Fork {
                why: format!(
                    "epochs {other} and {epoch} both follow epoch {}",
                    before.epoch
                ),
            },
            _ => Place::Next {
                follows: Some(before.epoch),
            },
        }
    }

    /// Moves a cursor over batches that the agent no longer holds. They were never committed here:
    /// an older database has come back after their retention.
    pub(super) fn skip(&mut self, through: BatchRef, reply: &mut Reply) {
        let node = reply.node;
        let key = (node, through.epoch);
        let cursor = self.loaded.cursors.get(&key).copied();
        let committed = cursor.map_or(Seq(0), |cursor| cursor.seq);
        if let Some(other) = cursor.and_then(|cursor| cursor.successor)
            && through.seq > committed
        {
            let why = format!(
                "batch {} of epoch {} is said to be lost, but epoch {other} had followed it at batch \
                 {committed}",
                through.seq, through.epoch
            );
            return self.quarantine(why, reply);
        }
        if through.seq > committed {
            self.moved
                .entry(key)
                .or_insert((reply.generation, cursor.map(|cursor| cursor.seq)));
            let next = Cursor {
                seq: through.seq,
                digest: through.digest,
                successor: cursor.and_then(|cursor| cursor.successor),
            };
            self.loaded.cursors.insert(key, next);
            self.effects.skipped.push(Skipped {
                node,
                epoch: through.epoch,
                from: committed.next(),
                to: through.seq,
            });
        }
        self.acknowledge(node, through.epoch, reply);
    }

    fn advance(&mut self, batch: &Batch, follows: Option<Epoch>, reply: &mut Reply) {
        let Batch {
            epoch, seq, digest, ..
        } = *batch;
        let node = reply.node;
        let cursor = self.loaded.cursors.get(&(node, epoch)).copied();
        self.moved
            .entry((node, epoch))
            .or_insert((reply.generation, cursor.map(|cursor| cursor.seq)));
        let successor = cursor.and_then(|cursor| cursor.successor);
        self.loaded.cursors.insert(
            (node, epoch),
            Cursor {
                seq,
                digest,
                successor,
            },
        );
        self.loaded.digests.insert((node, epoch, seq), digest);
        self.effects.digests.push(BatchDigest {
            node,
            epoch,
            seq,
            digest,
        });
        if let Some(before) = follows {
            if let Some(cursor) = self.loaded.cursors.get_mut(&(node, before)) {
                cursor.successor = Some(epoch);
            }
            let successor = Successor {
                node,
                epoch: before,
                successor: epoch,
            };
            self.effects.successors.push(successor);
        }
        self.acknowledge(node, epoch, reply);
    }

    /// Names the newest batch committed of an epoch, once.
    fn acknowledge(&self, node: NodeId, epoch: Epoch, reply: &mut Reply) {
        let Some(cursor) = self.loaded.cursors.get(&(node, epoch)) else {
            return;
        };
        let newest = BatchRef {
            epoch,
            seq: cursor.seq,
            digest: cursor.digest,
        };
        match reply
            .committed
            .iter_mut()
            .find(|known| known.epoch == epoch)
        {
            Some(known) => *known = newest,
            None => reply.committed.push(newest),
        }
    }

    /// Takes the node out of billing. Nothing of the branch is billed; it stays in the agent's spool.
    fn quarantine(&mut self, why: String, reply: &mut Reply) {
        let node = reply.node;
        if let Some(facts) = self.loaded.nodes.get_mut(&node) {
            facts.quarantined = Some(why.clone());
        }
        self.effects.quarantined.push((node, why.clone()));
        reply.quarantined = Some(why);
    }

    pub(super) fn finish_cursors(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        for ((node, epoch), (generation, expected)) in moved {
            let Some(cursor) = self.loaded.cursors.get(&(node, epoch)) else {
                continue;
            };
            let Cursor { seq, digest, .. } = *cursor;
            let advance = CursorAdvance {
                node,
                generation,
                epoch,
                expected,
                seq,
                digest,
            };
            self.effects.cursors.push(advance);
        }
        self.effects
            .cursors
            .sort_unstable_by_key(|cursor| (cursor.node, cursor.epoch));
    }
}
