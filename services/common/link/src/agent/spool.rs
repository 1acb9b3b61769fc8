//! The spool: batches in epochs, each written by one start of the agent. Rows gather in batches
//! that were never sent; once sent, a batch is never touched again, because its bytes are what
//! both sides know it by. Epochs of earlier starts are sealed: this process cannot know what of
//! them was sent.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use super::{Agent, Alarm, Effect, EpochNumber, EpochRecord, Write};
use crate::{
    BatchRef, CounterKey, Digest, Epoch, EpochSummary, MAX_BATCH_ROWS, Payload, Row, Seq, wire,
};

/// Batches kept decoded, so that rows can still join them.
const OPEN_BATCHES: usize = 8;

/// Acknowledgements within this time share one entry of `EpochRecord::acked_at`.
const ACK_STEP_MS: i64 = 600_000;

/// Epochs that fit into Hello.
pub(super) const HELLO_EPOCHS: usize = 4_096;

/// What is known of the spool beyond the disk.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    /// Of this start.
    epoch: Epoch,
    number: EpochNumber,
    /// The last batches of this epoch, never sent, oldest first.
    open: Vec<OpenBatch>,
    /// Where in `open` the newest row of a counter is.
    newest: HashMap<CounterKey, (usize, usize)>,
    /// Batches of this epoch up to here may be sent.
    released: Seq,
    /// The newest batch sent on the present stream.
    sent: (EpochNumber, Seq),
    /// Sent on the present stream and not acknowledged.
    in_flight: BTreeSet<(EpochNumber, Seq)>,
    /// Bytes of payloads on disk.
    bytes: u64,
    coarse: bool,
}

#[derive(Debug, Clone)]
struct OpenBatch {
    seq: Seq,
    rows: Vec<Row>,
    changed: bool,
}

impl Spool {
    pub(super) fn new(epoch: Epoch, durable: &super::Durable) -> Self {
        Self {
            epoch,
            number: durable.epochs.keys().next_back().map_or(1, |last| last + 1),
            open: Vec::new(),
            newest: HashMap::new(),
            released: Seq(0),
            sent: (0, Seq(0)),
            in_flight: BTreeSet::new(),
            bytes: durable
                .batches
                .values()
                .map(|batch| u64::from(batch.bytes))
                .sum(),
            coarse: false,
        }
    }

    /// Puts a row into an open batch: where it continues one, that one grows.
    fn take(&mut self, row: Row, last: Seq) {
        if let Some(&(place, index)) = self.newest.get(&row.counter) {
            let batch = &mut self.open[place];
            let known = &mut batch.rows[index];
            let continues = known.to() == row.from() && known.attribution == row.attribution;
            if continues && (known.bucket == row.bucket || self.coarse) {
                known.up.to = row.up.to;
                known.down.to = row.down.to;
                batch.changed = true;
                return;
            }
        }
        if self
            .open
            .last()
            .is_none_or(|batch| batch.rows.len() >= MAX_BATCH_ROWS)
        {
            let seq = self.open.last().map_or(last, |batch| batch.seq).next();
            self.open.push(OpenBatch {
                seq,
                rows: Vec::new(),
                changed: true,
            });
        }
        let place = self.open.len() - 1;
        let batch = &mut self.open[place];
        self.newest.insert(row.counter, (place, batch.rows.len()));
        batch.rows.push(row);
        batch.changed = true;
    }

    /// Closes open batches up to `seq`: rows join only later ones.
    fn close(&mut self, seq: Seq) {
        let before = self.open.len();
        self.open.retain(|batch| batch.seq > seq);
        if self.open.len() != before {
            self.newest.clear();
            for (place, batch) in self.open.iter().enumerate() {
                for (index, row) in batch.rows.iter().enumerate() {
                    self.newest.insert(row.counter, (place, index));
                }
            }
        }
    }
}

impl Agent {
    /// Writes rows into the spool, in the transaction that moves their baselines.
    pub(super) fn append(&mut self, rows: Vec<Row>, server_ms: i64) {
        if rows.is_empty() {
            return;
        }
        let number = self.spool.number;
        let mut record = self
            .durable
            .epochs
            .get(&number)
            .cloned()
            .unwrap_or(EpochRecord {
                epoch: self.spool.epoch,
                last: Seq(0),
                tail: Digest([0; 32]),
                acked: Seq(0),
                acked_at: Vec::new(),
            });
        for row in rows {
            self.spool.take(row, record.last);
        }
        let predecessor = self.predecessor();
        let mut writes = Vec::new();
        for batch in self.spool.open.iter_mut().filter(|batch| batch.changed) {
            batch.changed = false;
            let first = batch.seq == Seq(1);
            let sealed = wire::seal(
                record.epoch,
                batch.seq,
                &Payload {
                    predecessor: predecessor.filter(|_| first),
                    written_at_ms: server_ms,
                    rows: batch.rows.clone(),
                },
            );
            if batch.seq >= record.last {
                record.last = batch.seq;
                record.tail = sealed.digest;
            }
            let (seq, digest, payload) = (batch.seq, sealed.digest, sealed.payload);
            writes.push(Write::Batch {
                epoch: number,
                seq,
                digest,
                payload,
            });
        }
        for write in writes {
            if let Write::Batch {
                epoch,
                seq,
                payload,
                ..
            } = &write
            {
                let before = self.durable.batches.get(&(*epoch, *seq));
                self.spool.bytes -= before.map_or(0, |batch| u64::from(batch.bytes));
                self.spool.bytes += payload.len() as u64;
            }
            self.write(write);
        }
        self.write(Write::Epoch(number, record));
        if self.spool.open.len() > OPEN_BATCHES {
            let excess = self.spool.open.len() - OPEN_BATCHES;
            self.spool.close(self.spool.open[excess - 1].seq);
        }
        let coarse = self.spool.bytes > self.settings.spool_soft_bytes;
        if coarse && !self.spool.coarse {
            self.out.push(Effect::Alarm(Alarm::SpoolCoarsened {
                bytes: self.spool.bytes,
            }));
        }
        self.spool.coarse = coarse;
    }

    /// The last batch of the epoch before, which the first batch of this one names.
    fn predecessor(&self) -> Option<BatchRef> {
        self.durable
            .epochs
            .range(..self.spool.number)
            .rev()
            .map(|(_, record)| record)
            .find(|record| record.last > Seq(0))
            .map(|record| BatchRef {
                epoch: record.epoch,
                seq: record.last,
                digest: record.tail,
            })
    }

    /// Lets everything that is written be sent.
    pub(super) fn release(&mut self) {
        if let Some(record) = self.durable.epochs.get(&self.spool.number) {
            self.spool.released = record.last;
        }
    }

    /// Sends what may be sent and fits into the window, oldest first.
    pub(super) fn pump(&mut self) {
        let Some(window) = self.stream.window() else {
            return;
        };
        self.commit();
        while self.spool.in_flight.len() < window {
            let next = self
                .durable
                .batches
                .range((Bound::Excluded(self.spool.sent), Bound::Unbounded))
                .map(|(place, _)| *place)
                .find(|(number, seq)| {
                    self.durable
                        .epochs
                        .get(number)
                        .is_none_or(|record| *seq > record.acked)
                });
            let Some((epoch, seq)) = next else { break };
            if epoch == self.spool.number && seq > self.spool.released {
                break;
            }
            if epoch == self.spool.number {
                self.spool.close(seq);
            }
            self.spool.sent = (epoch, seq);
            self.spool.in_flight.insert((epoch, seq));
            self.out.push(Effect::SendBatch { epoch, seq });
        }
    }

    /// A stream is open: what it has committed is where sending starts, also where that is less
    /// than was acknowledged before (an older database).
    pub(super) fn resume(&mut self, cursors: &[BatchRef], server_ms: i64) {
        self.spool.in_flight.clear();
        self.spool.sent = (0, Seq(0));
        let numbers: Vec<_> = self.durable.epochs.keys().copied().collect();
        for number in numbers {
            let Some(record) = self.durable.epochs.get_mut(&number) else {
                continue;
            };
            let cursor = cursors.iter().find(|cursor| cursor.epoch == record.epoch);
            let committed = cursor.map_or(Seq(0), |cursor| cursor.seq);
            if committed < record.acked {
                // On disk too: said once, it is known over there.
                record.acked = committed;
                let record = record.clone();
                self.write(Write::Epoch(number, record));
            } else if let Some(cursor) = cursor {
                self.acknowledge(*cursor, server_ms);
            }
        }
    }

    /// A batch and all before it are committed. Forgetting this in a crash is harmless, so for
    /// the current epoch it becomes durable with the next batch.
    pub(super) fn acknowledge(&mut self, batch: BatchRef, server_ms: i64) {
        let found = self
            .durable
            .epochs
            .iter_mut()
            .find(|(_, record)| record.epoch == batch.epoch);
        // An epoch that is gone was acknowledged long ago.
        let Some((&number, record)) = found else {
            return;
        };
        let held = self.durable.batches.get(&(number, batch.seq));
        if batch.seq > record.last || held.is_some_and(|held| held.digest != batch.digest) {
            let what = format!(
                "batch {} of epoch {} is not this disk's",
                batch.seq, batch.epoch
            );
            // Sending goes on: what the two sides disagree about is the collector's to judge.
            self.out.push(Effect::Alarm(Alarm::Fork { what }));
            return;
        }
        if batch.seq > record.acked {
            record.acked = batch.seq;
            match record.acked_at.last_mut() {
                Some((seq, at)) if server_ms - *at < ACK_STEP_MS => *seq = batch.seq,
                _ => record.acked_at.push((batch.seq, server_ms)),
            }
            if number != self.spool.number {
                let record = record.clone();
                self.write(Write::Epoch(number, record));
            }
        }
        self.spool
            .in_flight
            .retain(|place| place.0 != number || place.1 > batch.seq);
    }

    /// Something is missing over there: everything from here on is sent again.
    pub(super) fn resend(&mut self, epoch: Epoch, seq: Seq) {
        let found = self
            .durable
            .epochs
            .iter_mut()
            .find(|(_, record)| record.epoch == epoch);
        let Some((&number, record)) = found else {
            return;
        };
        if seq <= record.acked {
            // It was committed, and is not any more: Hello shows it to an older database.
            return self.come_back_after(0);
        }
        if !self.durable.batches.contains_key(&(number, seq)) {
            return;
        }
        let before = Seq(seq.0.saturating_sub(1));
        self.spool.sent = (number, before);
        self.spool.in_flight.retain(|place| *place < (number, seq));
    }

    /// Drops batches whose retention is over, and epochs that have nothing left to say.
    pub(super) fn sweep_spool(&mut self, server_ms: i64) {
        let keep_from = server_ms - self.settings.retention_ms;
        let mut drops = Vec::new();
        for (number, record) in &self.durable.epochs {
            let over = record.acked_at.iter().rev().find(|(_, at)| *at < keep_from);
            let over = over.map_or(Seq(0), |(seq, _)| *seq).min(record.acked);
            let batches = self
                .durable
                .batches
                .range((*number, Seq(0))..=(*number, over));
            drops.extend(batches.map(|(place, _)| *place));
        }
        for (number, seq) in drops {
            let record = self.durable.batches.get(&(number, seq));
            self.spool.bytes -= record.map_or(0, |batch| u64::from(batch.bytes));
            self.write(Write::DropBatch(number, seq));
        }
        // The newest epoch with batches is what the next one names as its predecessor. All of them
        // are remembered as long as segments: an older database may ask for what followed them.
        let remember_from = server_ms - self.settings.segment_retention_ms;
        let newest = self.durable.epochs.keys().next_back().copied();
        let empty: Vec<_> = self
            .durable
            .epochs
            .iter()
            .filter(|(_, record)| {
                let last = record.acked_at.last();
                last.is_none_or(|(_, at)| *at < remember_from)
            })
            .map(|(number, _)| *number)
            .filter(|number| Some(*number) != newest && *number != self.spool.number)
            .filter(|number| {
                self.durable
                    .batches
                    .range((*number, Seq(0))..=(*number, Seq(u64::MAX)))
                    .next()
                    .is_none()
            })
            .collect();
        for number in empty {
            self.write(Write::DropEpoch(number));
        }
    }

    /// Epochs as Hello names them, oldest first; where they do not fit, the newest.
    pub(super) fn epoch_summaries(&self) -> Vec<EpochSummary> {
        let skipped = self.durable.epochs.len().saturating_sub(HELLO_EPOCHS);
        self.durable
            .epochs
            .iter()
            .skip(skipped)
            .map(|(number, record)| EpochSummary {
                epoch: record.epoch,
                first: self
                    .durable
                    .batches
                    .range((*number, Seq(0))..=(*number, Seq(u64::MAX)))
                    .next()
                    .map_or(Seq(0), |((_, seq), _)| *seq),
                last: record.last,
                tail: record.tail,
                acked: record.acked,
            })
            .collect()
    }

    /// Batches that are not known to be committed, and their bytes.
    pub(super) fn unacked(&self) -> (u64, u64) {
        self.durable
            .epochs
            .iter()
            .flat_map(|(number, record)| {
                self.durable
                    .batches
                    .range((*number, record.acked.next())..=(*number, Seq(u64::MAX)))
            })
            .fold((0, 0), |(count, bytes), (_, batch)| {
                (count + 1, bytes + u64::from(batch.bytes))
            })
    }
}
