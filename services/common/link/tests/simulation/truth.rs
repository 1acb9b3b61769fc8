//! The ledger of truth: what every counter counted, and to whom each range belongs by what was
//! durable on the node when it was counted. It never looks at a batch, so that a batch that
//! lies shows.

use std::collections::BTreeMap;

use vpnpanel_domain::{MicroBytes, NodeId, PeriodId, UserId};
use vpnpanel_link::agent::{Durable, Transaction, Write};
use vpnpanel_link::collector::ingest::OrphanReason;
use vpnpanel_link::{Attribution, CounterKey, EngineKind, Incarnation, Range, Row, Totals};

use crate::coverage::saw_if;
use crate::database::{Database, Usage, below};
use crate::engine::{Engine, Engines};

#[derive(Default)]
pub(crate) struct Truth {
    /// Final values of counters that died, and of these what must be billed.
    dead: BTreeMap<(NodeId, CounterKey), Dead>,
    /// The most that ever was on the counters of an engine that keeps no limit by itself, and not on
    /// the books: a user may be beyond the limit by so much.
    unread: BTreeMap<(usize, PeriodId), MicroBytes>,
    /// Stretches as the node's disk took them onto the books.
    stretches: BTreeMap<(NodeId, CounterKey), Vec<Stretch>>,
    /// What counters had counted already when a new disk opened their books: nobody can say any more
    /// in which period it passed, so it is billed to one that its limit knew nothing of.
    pub(crate) adopted: BTreeMap<PeriodId, MicroBytes>,
    /// What nodes could still let through of each period when they were written off.
    pub(crate) written_off: BTreeMap<PeriodId, MicroBytes>,
}

struct Dead {
    counted: Totals,
    durable: Totals,
}

#[derive(Clone, Copy)]
struct Stretch {
    attribution: Attribution,
    up: Range,
    down: Range,
}

impl Truth {
    /// Notes what a local transaction moves, before it is made.
    pub(crate) fn observe(
        &mut self,
        node: NodeId,
        disk: &Durable,
        engines: &Engines,
        transaction: &Transaction,
    ) {
        let mut books: BTreeMap<CounterKey, (Totals, Attribution)> = BTreeMap::new();
        for write in &transaction.writes {
            let Write::Counter(key, record) = write else {
                continue;
            };
            let before = books
                .get(key)
                .copied()
                .or_else(|| disk.counters.get(key).map(|record| record.baseline()));
            let after = record.baseline();
            books.insert(*key, after);
            let stretches = self.stretches.entry((node, *key)).or_default();
            let Some((from, attribution)) = before else {
                if let Some(counted) = engines.counted(*key) {
                    saw_if(counted.sum() > 0, "state: counters of a new disk adopted");
                    let to = after.1;
                    *self.adopted.entry(to.period).or_default() +=
                        to.multiplier.bill(beyond(counted, after.0));
                }
                // Books that open: what an older disk took beyond them was never billed.
                for stretch in stretches.iter_mut() {
                    stretch.up.to = stretch.up.to.min(after.0.up).max(stretch.up.from);
                    stretch.down.to = stretch.down.to.min(after.0.down).max(stretch.down.from);
                }
                continue;
            };
            if after.0 != from {
                stretches.push(Stretch {
                    attribution,
                    up: Range {
                        from: from.up,
                        to: after.0.up,
                    },
                    down: Range {
                        from: from.down,
                        to: after.0.down,
                    },
                });
            }
        }
    }

    /// An engine of a node dies: what is on the books must still be billed; the rest is lost.
    pub(crate) fn engine_died(&mut self, node: NodeId, engine: &Engine, disk: Option<&Durable>) {
        for (key, counted) in engine.counters() {
            let books = disk.and_then(|disk| disk.counters.get(&key));
            let durable = books.map(|record| record.baseline().0).unwrap_or_default();
            self.dead.insert((node, key), Dead { counted, durable });
        }
    }

    /// Traffic has passed a host.
    pub(crate) fn traffic(&mut self, host: usize, engines: &Engines, disk: Option<&Durable>) {
        let mut unread: BTreeMap<PeriodId, MicroBytes> = BTreeMap::new();
        for (key, counted) in engines.of(EngineKind::Xray).counters() {
            let Some(record) = disk.and_then(|disk| disk.counters.get(&key)) else {
                continue;
            };
            let (books, to) = record.baseline();
            *unread.entry(to.period).or_default() += to.multiplier.bill(beyond(counted, books));
        }
        for (period, now) in unread {
            let most = self.unread.entry((host, period)).or_default();
            *most = (*most).max(now);
        }
    }

    /// How much beyond the limit of a period may have passed engines that keep none.
    pub(crate) fn unread(&self, period: PeriodId) -> MicroBytes {
        let of = self.unread.iter().filter(|((_, id), _)| *id == period);
        of.fold(MicroBytes::ZERO, |sum, (_, most)| sum + *most)
    }

    /// A disk is lost: of counters that died before, only what is billed already is sure.
    pub(crate) fn disk_lost(&mut self, node: NodeId) {
        for ((of, _), dead) in &mut self.dead {
            if *of == node {
                dead.durable = Totals::default();
            }
        }
    }

    /// Nothing is ever billed that was not counted.
    pub(crate) fn never_more(
        &self,
        database: &Database,
        engines: &[(NodeId, &Engines)],
    ) -> Result<(), String> {
        for ((node, key), mark) in &database.rows.marks {
            let counted = self.counted(*node, *key, engines);
            if !counted.covers(mark.totals) {
                return Err(format!(
                    "{:?} of {key:?} on {node} are billed, {counted:?} were counted",
                    mark.totals
                ));
            }
        }
        Ok(())
    }

    /// Once quiet: everything counted is billed, but for what died unread. Of a node that is quarantined
    /// nothing is billed any more.
    pub(crate) fn all_billed(
        &self,
        database: &Database,
        engines: &[(NodeId, &Engines)],
    ) -> Result<(), String> {
        for (node, engines) in engines
            .iter()
            .filter(|(node, _)| !database.is_quarantined(*node))
        {
            for (key, counted) in engines.counters() {
                let billed = database.mark(*node, key);
                if billed != counted {
                    return Err(format!(
                        "{key:?} on {node}: {counted:?} counted, {billed:?} billed"
                    ));
                }
            }
        }
        for ((node, key), dead) in &self.dead {
            if database.is_quarantined(*node) {
                continue;
            }
            let billed = database.mark(*node, *key);
            if !billed.covers(dead.durable) {
                return Err(format!(
                    "{key:?} on {node}, dead: {:?} were on the books, {billed:?} billed",
                    dead.durable
                ));
            }
        }
        Ok(())
    }

    /// Once quiet: sums by node, user and period are what the truth says, to the micro-byte.
    pub(crate) fn sums(&self, database: &Database) -> Result<(), String> {
        let mut expected: BTreeMap<(NodeId, UserId, PeriodId), Usage> = BTreeMap::new();
        for ((node, key), stretches) in &self.stretches {
            let mark = database.mark(*node, *key);
            let lost: Vec<_> = lost_ranges(database, *node, *key).collect();
            for stretch in stretches {
                let lost_up: u64 = lost.iter().map(|row| overlap(stretch.up, row.up)).sum();
                let lost_down: u64 = lost.iter().map(|row| overlap(stretch.down, row.down)).sum();
                let up = below(stretch.up, mark.up) - lost_up;
                let down = below(stretch.down, mark.down) - lost_down;
                let to = stretch.attribution;
                if up + down > 0 {
                    let usage = expected.entry((*node, to.user, to.period)).or_default();
                    usage.up += up;
                    usage.down += down;
                    usage.billed += to.multiplier.bill(up + down);
                }
            }
        }
        for orphan in &database.orphans {
            if orphan.reason == OrphanReason::SegmentsLost {
                continue;
            }
            let to = orphan.row.attribution;
            let key = (orphan.node, to.user, to.period);
            let Some(usage) = expected.get_mut(&key) else {
                return Err(format!("an orphan that nobody counted: {orphan:?}"));
            };
            usage.up -= orphan.row.up.len();
            usage.down -= orphan.row.down.len();
            usage.billed = usage.billed.saturating_sub(orphan.row.billable());
        }
        expected.retain(|_, usage| usage.up + usage.down > 0);
        if expected != database.usage {
            let differs = |key: &_| expected.get(key) != database.usage.get(key);
            let wrong: Vec<_> = expected
                .keys()
                .chain(database.usage.keys())
                .filter(|key| differs(key))
                .map(|key| (key, expected.get(key), database.usage.get(key)))
                .collect();
            return Err(format!(
                "usage differs from the truth (expected, billed): {wrong:#?}"
            ));
        }
        for (period, facts) in &database.rows.periods {
            let of = |pick: fn(&Usage) -> u128| -> u128 {
                let usage = database.usage.iter().filter(|((_, _, id), _)| id == period);
                usage.map(|(_, usage)| pick(usage)).sum()
            };
            let raw = database.raw.get(period).copied().unwrap_or_default();
            let same = of(|usage| usage.billed.get()) == facts.used.get()
                && of(|usage| u128::from(usage.up)) == u128::from(raw.0)
                && of(|usage| u128::from(usage.down)) == u128::from(raw.1);
            if !same {
                return Err(format!("{period}: the sum of nodes is not the period's"));
            }
        }
        Ok(())
    }

    /// What passed of each period, billed or not, micro-bytes. Of a counter without books only its mark
    /// says which period that is; one of an older database (`restored`) is too old to say so.
    pub(crate) fn passed(
        &self,
        database: &Database,
        restored: bool,
        hosts: &[(NodeId, &Engines, Option<&Durable>)],
    ) -> BTreeMap<PeriodId, MicroBytes> {
        let mut passed: BTreeMap<PeriodId, MicroBytes> = database
            .rows
            .periods
            .iter()
            .map(|(period, facts)| (*period, facts.used))
            .collect();
        for (node, engines, disk) in hosts {
            for (key, counted) in engines.counters() {
                let billed = database.mark(*node, key);
                let books = disk.and_then(|disk| disk.counters.get(&key));
                let mut counted_for = billed;
                for segment in books.iter().flat_map(|record| &record.segments) {
                    let to = segment.attribution;
                    *passed.entry(to.period).or_default() +=
                        to.multiplier.bill(beyond(segment.to, counted_for));
                    counted_for = furthest(segment.to, counted_for);
                }
                let to = books.map(|record| record.baseline().1).or_else(|| {
                    let mark = database.rows.marks.get(&(*node, key));
                    mark.filter(|_| !restored).map(|mark| mark.attribution)
                });
                if let Some(to) = to {
                    *passed.entry(to.period).or_default() +=
                        to.multiplier.bill(beyond(counted, counted_for));
                }
            }
        }
        for ((node, key), dead) in &self.dead {
            let billed = database.mark(*node, *key);
            let unbilled = dead.counted.sum().saturating_sub(billed.sum());
            let last = self
                .stretches
                .get(&(*node, *key))
                .and_then(|all| all.last());
            if let (true, Some(stretch)) = (unbilled > 0, last) {
                let to = stretch.attribution;
                *passed.entry(to.period).or_default() += to.multiplier.bill(unbilled);
            }
        }
        passed
    }

    fn counted(&self, node: NodeId, key: CounterKey, engines: &[(NodeId, &Engines)]) -> Totals {
        let live = engines
            .iter()
            .find(|(of, engines)| *of == node && engines.lives(key.incarnation));
        match live {
            Some((_, engines)) => engines.counted(key).unwrap_or_default(),
            None => self
                .dead
                .get(&(node, key))
                .map(|dead| dead.counted)
                .unwrap_or_default(),
        }
    }
}

/// What of a counter nobody could be billed for: a disk was lost with it, and the database is older.
fn lost_ranges(database: &Database, node: NodeId, key: CounterKey) -> impl Iterator<Item = Row> {
    let orphans = database.orphans.iter();
    orphans
        .filter(move |orphan| orphan.node == node && orphan.row.counter == key)
        .filter(|orphan| orphan.reason == OrphanReason::SegmentsLost)
        .map(|orphan| orphan.row)
}

fn overlap(one: Range, other: Range) -> u64 {
    one.to
        .min(other.to)
        .saturating_sub(one.from.max(other.from))
}

/// What lies between two readings, in both directions.
fn beyond(reading: Totals, mark: Totals) -> u64 {
    reading.up.saturating_sub(mark.up) + reading.down.saturating_sub(mark.down)
}

fn furthest(one: Totals, other: Totals) -> Totals {
    Totals {
        up: one.up.max(other.up),
        down: one.down.max(other.down),
    }
}

/// An incarnation that no engine ever had.
pub(crate) fn fresh(random: &mut crate::random::Random) -> Incarnation {
    Incarnation(random.array())
}
