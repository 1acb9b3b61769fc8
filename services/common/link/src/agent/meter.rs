//! From counters to rows. What a counter shows beyond its baseline is billed to whom the
//! baseline was taken for; the new baseline, the rows and what leases it used up become durable
//! together, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{MicroBytes, Multiplier, PeerId, PeriodId, UserId};

use super::{Agent, Alarm, CounterRecord, Effect, Now, Sample, Write};
use crate::{
    Attribution, Bucket, CounterKey, CounterMark, EngineKind, MAX_BATCH_ROWS, Range, Row, Segment,
    Segments, Totals, Up,
};

impl Agent {
    /// Takes samples of the engines' present lives onto the books. Returns the users that used
    /// something, or whose traffic belongs elsewhere from now on.
    pub(super) fn meter(&mut self, samples: &[Sample], now: Now) -> Vec<UserId> {
        let server_ms = self.server_ms(now);
        let mut rows = Vec::new();
        let mut used = Vec::new();
        let mut charged: BTreeMap<(UserId, PeriodId), MicroBytes> = BTreeMap::new();
        let readings = samples
            .iter()
            .flat_map(|sample| sample.readings.iter().map(move |reading| (sample, reading)));
        for (sample, reading) in readings {
            let key = CounterKey {
                incarnation: sample.before,
                peer: reading.peer,
            };
            let Some(record) = self.durable.counters.get(&key) else {
                let unknown = &mut self.engines.of_mut(sample.kind).unknown;
                unknown.entry(reading.peer).or_insert(None);
                continue;
            };
            let (baseline, attribution) = record.baseline();
            if !reading.totals.covers(baseline) {
                let (peer, reading) = (reading.peer, reading.totals);
                self.out.push(Effect::Alarm(Alarm::CounterWentBack {
                    peer,
                    baseline,
                    reading,
                }));
                continue;
            }
            let next = self
                .attribution_of(sample.kind, reading.peer, server_ms)
                .unwrap_or(attribution);
            if reading.totals == baseline && next == attribution {
                continue;
            }
            let record = advance(record, reading.totals, next, server_ms, &self.settings);
            self.write(Write::Counter(key, record));
            used.extend((next != attribution).then_some(next.user));
            if reading.totals == baseline {
                continue;
            }
            let row = Row {
                counter: key,
                attribution,
                bucket: Bucket::at(server_ms),
                up: Range {
                    from: baseline.up,
                    to: reading.totals.up,
                },
                down: Range {
                    from: baseline.down,
                    to: reading.totals.down,
                },
            };
            used.push(attribution.user);
            if attribution.leased {
                let of = (attribution.user, attribution.period);
                *charged.entry(of).or_default() += row.billable();
            }
            rows.push(row);
        }
        for (of, billed) in &charged {
            if let Some(lease) = self.durable.leases.get(of) {
                let consumed = lease.consumed + *billed;
                self.write(Write::Lease(crate::LeaseState { consumed, ..*lease }));
            }
        }
        self.append(rows, server_ms);
        if !self.tx.is_empty() {
            self.refresh_anchor(now);
        }
        used.sort_unstable();
        used.dedup();
        used
    }

    /// Whom a peer's traffic through an engine is billed to from now on; `None` for peers that should
    /// not be there.
    pub(super) fn attribution_of(
        &self,
        kind: EngineKind,
        peer: PeerId,
        server_ms: i64,
    ) -> Option<Attribution> {
        let desired = self.desired.as_ref()?;
        let user = desired.user_of(kind, peer)?;
        let period = user.period_at(server_ms);
        let leased = self.durable.leases.contains_key(&(user.id, period));
        Some(Attribution {
            user: user.id,
            period,
            multiplier: desired.multiplier,
            leased,
        })
    }

    /// Opens the books of counters that this disk does not know with the control plane's marks.
    /// Without anybody to bill they wait for a desired state; one that does not know the peer
    /// either leaves the bytes to be found among the orphans.
    pub(super) fn adopt(&mut self, now: Now) {
        let server_ms = self.server_ms(now);
        let told: Vec<_> = EngineKind::ALL
            .into_iter()
            .flat_map(|kind| {
                let unknown = self.engines.of(kind).unknown.values().flatten();
                unknown.map(move |mark| (kind, *mark))
            })
            .collect();
        for (kind, mark) in told {
            let peer = mark.counter.peer;
            let attribution = mark
                .attribution
                .or_else(|| self.attribution_of(kind, peer, server_ms))
                .or_else(|| self.desired.is_some().then(nobody));
            if let Some(attribution) = attribution {
                let record = CounterRecord::open(attribution, mark.totals, server_ms);
                self.write(Write::Counter(mark.counter, record));
                let engine = self.engines.of_mut(kind);
                engine.unknown.remove(&peer);
                engine.dirty = true;
            }
        }
    }

    /// Answers for the marks of counters that this disk does not know: asked for in Hello, told
    /// in Welcome, where zero is not written out.
    pub(super) fn marks_told(&mut self, marks: &[CounterMark]) {
        let marks: BTreeMap<_, _> = marks.iter().map(|mark| (mark.counter, *mark)).collect();
        for engine in self.engines.each_mut() {
            let Some(incarnation) = engine.incarnation else {
                continue;
            };
            for (peer, told) in &mut engine.unknown {
                let counter = CounterKey {
                    incarnation,
                    peer: *peer,
                };
                if self.stream.asked.contains(&counter) {
                    let mark = marks.get(&counter).copied();
                    *told = Some(mark.unwrap_or(CounterMark {
                        counter,
                        totals: Totals::default(),
                        attribution: None,
                    }));
                }
            }
        }
    }

    /// Answers what is still known of counters whose rows began beyond the mark.
    pub(super) fn answer_segments(&mut self, asked: &[CounterMark]) {
        let mut answer = Segments::default();
        for mark in asked {
            let Some(record) = self.durable.counters.get(&mark.counter) else {
                answer.unknown.push(mark.counter);
                continue;
            };
            let first = record
                .segments
                .first()
                .map_or(Totals::default(), |segment| segment.from);
            if !mark.totals.covers(first) {
                // What lies below the first segment is forgotten, or was counted by a disk that was
                // lost: nobody is billed for it. The rest follows in order.
                answer.rows.push(forgotten(mark, first, record));
            }
            let beyond = record
                .segments
                .iter()
                .filter(|segment| !segment.is_empty() && !mark.totals.covers(segment.to));
            answer
                .rows
                .extend(beyond.map(|segment| segment.row(mark.counter)));
        }
        if answer == Segments::default() {
            return;
        }
        let unknown = std::mem::take(&mut answer.unknown);
        self.commit();
        for rows in answer.rows.chunks(MAX_BATCH_ROWS) {
            let part = Segments {
                rows: rows.to_vec(),
                unknown: Vec::new(),
            };
            self.out.push(Effect::Send(Up::Segments(part)));
        }
        if !unknown.is_empty() {
            self.out.push(Effect::Send(Up::Segments(Segments {
                rows: Vec::new(),
                unknown,
            })));
        }
    }

    /// Forgets counters of dead incarnations whose periods are long over, and old stretches.
    pub(super) fn sweep_counters(&mut self, server_ms: i64) {
        let keep_from = server_ms - self.settings.segment_retention_ms;
        let lives: BTreeSet<_> = self.durable.incarnations.values().copied().collect();
        let over: Vec<_> = self
            .durable
            .counters
            .iter()
            .filter(|(key, record)| {
                !lives.contains(&key.incarnation)
                    && record
                        .segments
                        .iter()
                        .all(|segment| segment.grown_at_ms < keep_from)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            self.write(Write::DropCounter(key));
        }
    }
}

impl CounterRecord {
    /// The books with what comes next charged to the lease, which the agent has from now on.
    pub(super) fn charged_from_here(&self) -> Self {
        let mut segments = self.segments.clone();
        if let Some(last) = segments.last_mut() {
            let attribution = Attribution {
                leased: true,
                ..last.attribution
            };
            let opened = Segment {
                attribution,
                from: last.to,
                to: last.to,
                grown_at_ms: last.grown_at_ms,
            };
            if last.is_empty() {
                *last = opened;
            } else {
                segments.push(opened);
            }
        }
        Self { segments }
    }
}

/// What lies between a mark and where the books begin.
fn forgotten(mark: &CounterMark, first: Totals, record: &CounterRecord) -> Row {
    let opened = record.segments.first();
    Row {
        counter: mark.counter,
        attribution: nobody(),
        bucket: Bucket::at(opened.map_or(0, |segment| segment.grown_at_ms)),
        up: Range {
            from: mark.totals.up.min(first.up),
            to: first.up,
        },
        down: Range {
            from: mark.totals.down.min(first.down),
            to: first.down,
        },
    }
}

/// The books after a reading: the last stretch grows; a new attribution opens the next.
fn advance(
    record: &CounterRecord,
    totals: Totals,
    next: Attribution,
    server_ms: i64,
    settings: &super::Settings,
) -> CounterRecord {
    let keep_from = server_ms - settings.segment_retention_ms;
    let mut segments = record.segments.clone();
    if let Some(last) = segments.last_mut() {
        if last.to != totals {
            last.to = totals;
            last.grown_at_ms = server_ms;
        }
        if last.attribution != next {
            let opened = Segment {
                attribution: next,
                from: totals,
                to: totals,
                grown_at_ms: server_ms,
            };
            if last.is_empty() {
                *last = opened;
            } else {
                segments.push(opened);
            }
        }
    }
    let old = segments
        .iter()
        .take_while(|segment| segment.grown_at_ms < keep_from)
        .count();
    segments.drain(..old.min(segments.len().saturating_sub(1)));
    CounterRecord { segments }
}

/// Usage of nobody that is known: billed to no one, and kept among the orphans.
fn nobody() -> Attribution {
    Attribution {
        user: UserId::from_bytes([0; 16]),
        period: PeriodId::from_bytes([0; 16]),
        multiplier: Multiplier::ONE,
        leased: false,
    }
}
