//! Reporting to a control plane that does not know what this node holds: its database is an older
//! one than before. Leases are named at once; what the counters show and every batch there is have to
//! be committed before the node says that it has reported.

use std::collections::BTreeMap;

use super::{Agent, Alarm, CounterRecord, Effect, EpochNumber};
use crate::{
    BatchRef, CounterKey, Digest, EngineKind, MAX_BATCH_ROWS, Row, Segment, Segments, Seq,
    StateEpoch, Totals, Up,
};

/// Segments that are sent without being asked for, in messages: the rest is asked for where rows
/// begin beyond a mark.
const UNASKED: usize = 32;

/// A report under way, on the present stream.
#[derive(Debug, Clone)]
pub(super) struct Report {
    epoch: StateEpoch,
    /// Engines whose counters were read on this stream.
    read: Vec<EngineKind>,
    /// What has to be acknowledged, once it is known.
    tails: Option<BTreeMap<EpochNumber, Seq>>,
}

impl Agent {
    /// The control plane asks for a report: every lease is named before any usage is sent.
    pub(super) fn begin_report(&mut self, epoch: StateEpoch) {
        self.stream.report = Some(Report {
            epoch,
            read: Vec::new(),
            tails: None,
        });
        self.allowances
            .reports
            .extend(self.durable.leases.keys().copied());
        self.send_lease_reports();
        self.show_openings();
    }

    /// Says where books were opened at a mark: an older database may not have billed up to there, and
    /// what lies below is on no disk.
    fn show_openings(&mut self) {
        let openings: Vec<_> = self
            .durable
            .counters
            .iter()
            .filter_map(|(key, record)| Some((*key, *record.segments.first()?)))
            .filter(|(_, first)| first.from != Totals::default())
            .map(|(key, first)| {
                let to = first.from;
                Segment { to, ..first }.row(key)
            })
            .collect();
        self.send_segments(&openings);
    }

    fn send_segments(&mut self, rows: &[Row]) {
        for part in rows.chunks(MAX_BATCH_ROWS).take(UNASKED) {
            self.out.push(Effect::Send(Up::Segments(Segments {
                rows: part.to_vec(),
                unknown: Vec::new(),
            })));
        }
    }

    /// An engine's counters were read, and are on the books.
    pub(super) fn counters_reported(&mut self, kind: EngineKind) {
        if let Some(report) = &mut self.stream.report
            && !report.read.contains(&kind)
        {
            report.read.push(kind);
        }
    }

    /// Says that all is reported, when it is.
    pub(super) fn finish_report(&mut self) {
        let Some(report) = &self.stream.report else {
            return;
        };
        if report.tails.is_none() {
            // A counter without books was counted by a disk that was lost: it is read first. Of an
            // engine that does not run there is nothing to read.
            let counted = self
                .engines
                .live()
                .all(|(kind, _)| report.read.contains(&kind));
            if !counted || self.engines.unknown().next().is_some() {
                return;
            }
            let tails = self.durable.epochs.iter();
            let tails = tails
                .map(|(number, record)| (*number, record.last))
                .collect();
            if let Some(report) = &mut self.stream.report {
                report.tails = Some(tails);
            }
            self.release();
            self.pump();
        }
        let Some(Report {
            epoch,
            tails: Some(tails),
            ..
        }) = &self.stream.report
        else {
            return;
        };
        let waits = tails.iter().any(|(number, tail)| {
            let record = self.durable.epochs.get(number);
            record.is_some_and(|record| record.acked < *tail)
        });
        if waits {
            return;
        }
        let epoch = *epoch;
        self.stream.report = None;
        self.send_lease_reports();
        self.commit();
        self.out.push(Effect::Send(Up::Reported(epoch)));
    }

    /// Says which batches the control plane lacks and this disk no longer holds, and what the books
    /// still know of all counters.
    pub(super) fn declare_lost(&mut self) {
        let mut lost = Vec::new();
        for (number, record) in &mut self.durable.epochs {
            let from = record.acked.next();
            let held = self.durable.batches.range((*number, from)..);
            let first = held
                .map(|((epoch, seq), _)| (*epoch, *seq))
                .next()
                .filter(|(epoch, _)| epoch == number)
                .map_or(record.last.next(), |(_, seq)| seq);
            if first <= from {
                continue;
            }
            let through = Seq(first.get() - 1);
            record.acked = through;
            let digest = if through == record.last {
                record.tail
            } else {
                Digest([0; 32])
            };
            lost.push(BatchRef {
                epoch: record.epoch,
                seq: through,
                digest,
            });
        }
        if lost.is_empty() {
            return;
        }
        let epochs = lost.len();
        self.out.push(Effect::Alarm(Alarm::BatchesLost { epochs }));
        self.commit();
        let rows: Vec<_> = self
            .durable
            .counters
            .iter()
            .flat_map(|(key, record)| segments(*key, record))
            .collect();
        // First: once the cursors have moved nobody asks for what was in these batches.
        self.send_segments(&rows);
        // As many as Hello can name.
        lost.truncate(super::spool::HELLO_EPOCHS);
        self.out.push(Effect::Send(Up::Lost(lost)));
    }
}

fn segments(key: CounterKey, record: &CounterRecord) -> impl Iterator<Item = Row> + '_ {
    record
        .segments
        .iter()
        .filter(|segment| !segment.is_empty())
        .map(move |segment| segment.row(key))
}

#[cfg(test)]
mod tests {
    use vpnpanel_domain::{LeaseId, MicroBytes, Multiplier, PeerId, PeriodId, UserId};

    use super::*;
    use crate::agent::testing::{Host, empty};
    use crate::agent::{Durable, EpochRecord};
    use crate::{Attribution, Epoch, Generation, Hello, Incarnation, LeaseState};

    const EPOCH: Epoch = Epoch([5; 16]);
    const TAIL: Digest = Digest([6; 32]);

    fn user() -> UserId {
        UserId::from_bytes([1; 16])
    }

    fn period() -> PeriodId {
        PeriodId::from_bytes([2; 16])
    }

    /// Remembers three batches that were acknowledged so long ago that they are gone, what they said
    /// of a counter, and a lease.
    fn disk() -> Durable {
        let mut disk = empty();
        let record = EpochRecord {
            epoch: EPOCH,
            last: Seq(3),
            tail: TAIL,
            acked: Seq(3),
            acked_at: Vec::new(),
        };
        disk.epochs.insert(1, record);
        let counter = CounterKey {
            incarnation: Incarnation([3; 16]),
            peer: PeerId::from_bytes([4; 16]),
        };
        let attribution = Attribution {
            user: user(),
            period: period(),
            multiplier: Multiplier::ONE,
            leased: true,
        };
        let segment = Segment {
            attribution,
            from: Totals::default(),
            to: Totals { up: 7, down: 8 },
            grown_at_ms: 1,
        };
        let segments = vec![segment];
        disk.counters.insert(counter, CounterRecord { segments });
        let lease = LeaseState {
            user: user(),
            period: period(),
            lease: LeaseId::from_bytes([7; 16]),
            version: 1,
            allowance: MicroBytes::from_bytes(9),
            consumed: MicroBytes::ZERO,
        };
        disk.leases.insert((user(), period()), lease);
        disk
    }

    /// What an agent with this disk says after a Welcome that has nothing of it.
    fn said(disk: Durable, report: bool) -> (Host, Vec<Up>) {
        let mut host = Host::start(disk);
        host.without_engines();
        host.greet();
        let effects = host.welcome(report);
        let said = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send(Up::Health(_)) => None,
            Effect::Send(up) => Some(up),
            _ => None,
        });
        let said = said.collect();
        (host, said)
    }

    #[test]
    fn what_is_gone_is_declared_after_what_the_books_still_know_of_it() {
        let (host, said) = said(disk(), false);
        let [Up::Segments(known), Up::Lost(lost)] = said.as_slice() else {
            panic!("{said:?}");
        };
        assert_eq!(known.rows.len(), 1);
        let through = BatchRef {
            epoch: EPOCH,
            seq: Seq(3),
            digest: TAIL,
        };
        assert_eq!(lost, &[through]);
        assert_eq!(host.disk.epochs[&1].acked, Seq(0), "until it is committed");
    }

    #[test]
    fn a_report_names_every_lease_and_waits_until_everything_is_committed() {
        let (_, unasked) = said(empty(), false);
        assert!(unasked.is_empty(), "{unasked:?}");
        let mut without_batches = disk();
        without_batches.epochs.clear();
        let (_, said) = said(without_batches, true);
        let [Up::LeaseReport(leases), Up::Reported(StateEpoch(0))] = said.as_slice() else {
            panic!("{said:?}");
        };
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn hello_tells_under_what_the_disk_was_welcomed_last() {
        let hello = |host: &mut Host| -> Hello {
            let mut effects = host.greet();
            effects.retain(|effect| matches!(effect, Effect::Send(Up::Hello(_))));
            match effects.pop() {
                Some(Effect::Send(Up::Hello(hello))) => *hello,
                other => panic!("{other:?}"),
            }
        };
        let mut host = Host::start(empty());
        host.without_engines();
        assert_eq!(hello(&mut host).generation, Generation(0));
        host.welcome(false);
        let mut host = Host::start(host.disk);
        host.without_engines();
        assert_eq!(hello(&mut host).generation, Generation(1));
    }
}
