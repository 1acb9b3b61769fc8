//! How streams open, and what follows when the database turns out to be an older one.

use vpnpanel_domain::NodeId;
use vpnpanel_link::collector::Witnesses;
use vpnpanel_link::collector::open::{self, StreamFacts};
use vpnpanel_link::collector::session::{Effect, Event, Session};
use vpnpanel_link::{CounterMark, Generation, Hello, Pace, Revision, StateEpoch, Totals};

use super::Plane;
use crate::coverage::saw_if;
use crate::database::Database;
use crate::mutation::Mutation;
use crate::random::Random;

impl Plane {
    /// An older backup takes the place of the database. Collectors may have been stopped for it, or
    /// not: the database may have failed over to a replica that lagged. Whoever lost the database for a
    /// moment opens its streams anew; whoever finds less of the change log than it has read ends them.
    pub(crate) fn restore(
        &mut self,
        backup: &Database,
        declared: bool,
        now_ms: i64,
        random: &mut Random,
    ) {
        let is_shorter = backup.revision < self.database.revision;
        if declared || is_shorter || random.chance(500) {
            self.crash();
        } else {
            self.failed_over = true;
        }
        self.put_in_place(backup.clone());
        if declared {
            let epoch = self.database.rows.standing.epoch;
            self.bump(epoch.restored(StateEpoch(0), self.clock(now_ms)));
        } else {
            self.database.window.unheard = self.database.rows.nodes.keys().copied().collect();
        }
    }

    /// The database fails over to the replica that lags, and nobody notices: streams go on.
    pub(crate) fn fail_over(&mut self) -> Result<(), String> {
        let replica = self.replica.take().ok_or("no stream was opened")?;
        if replica.revision < self.database.revision {
            self.crash();
        }
        self.put_in_place(replica);
        Ok(())
    }

    fn put_in_place(&mut self, mut older: Database) {
        // The truth is never restored.
        older.ceilings.clone_from(&self.database.ceilings);
        older.window.clone_from(&self.database.window);
        self.database = older;
        self.commands.restored();
        self.was_held = true;
        self.was_restored = true;
    }

    /// All that the node holds is reported and committed, and nothing has followed from it yet.
    pub(crate) fn is_about_to_report(&self, node: NodeId) -> bool {
        self.work.iter().any(|(id, effect)| {
            let stream = self.streams.get(id);
            stream.is_some_and(|stream| stream.node == node)
                && matches!(effect, Effect::Reported { .. })
        })
    }

    pub(super) fn bump(&mut self, epoch: StateEpoch) {
        if self.mutation == Some(Mutation::EpochNotBumped) {
            self.database.window.unheard.clear();
            return;
        }
        self.database.bump(epoch);
        // What is under way to nodes may still arrive; from their next Hello on nothing does.
        self.kept.clear();
    }

    pub(super) fn open(&mut self, id: u64, hello: &Hello, now_ms: i64, random: &mut Random) {
        let Some(node) = self.streams.get(&id).map(|stream| stream.node) else {
            return;
        };
        let rows = &self.database.rows;
        let cursors = hello
            .epochs
            .iter()
            .filter_map(|known| Some((known.epoch, *rows.cursors.get(&(node, known.epoch))?)))
            .collect();
        let marks = hello
            .unknown_baselines
            .iter()
            .filter_map(|counter| {
                let mark = rows.marks.get(&(node, *counter))?;
                let attribution = Some(mark.attribution);
                Some(CounterMark {
                    counter: *counter,
                    totals: mark.totals,
                    attribution,
                })
            })
            .collect();
        let mut awaited: Vec<_> = rows
            .marks
            .iter()
            .filter(|((of, _), mark)| *of == node && mark.awaited.is_some())
            .map(|((_, counter), mark)| CounterMark {
                counter: *counter,
                totals: mark.totals,
                attribution: Some(mark.attribution),
            })
            .collect();
        awaited.sort_by_key(|mark| mark.counter);
        let mut facts = StreamFacts {
            node: rows.nodes.get(&node).cloned().unwrap_or_default(),
            cursors,
            marks,
            awaited,
            unanswered: self.database.unanswered(node),
            standing: rows.standing,
            versions: self.database.versions(node),
            periods: rows
                .periods
                .iter()
                .map(|(period, facts)| (*period, facts.over))
                .collect(),
            head: Some(Revision(self.database.revision)),
            witnesses: Witnesses {
                others: rows
                    .nodes
                    .iter()
                    .filter(|(other, facts)| **other != node && facts.spoke == rows.standing.epoch)
                    .map(|(_, facts)| facts.tenant)
                    .collect(),
                sole_tenant: false,
            },
            applied: self.database.applied.get(&node).copied(),
        };
        let pace = Pace {
            window: 4,
            ..Pace::default()
        };
        self.newest.insert(node, id);
        if self.mutation == Some(Mutation::ForkNotFound) {
            facts.node.boots.clear();
            facts.node.boot_strikes = 0;
        }
        let was_quarantined = facts.node.quarantined.is_some();
        let clock_ms = self.clock(now_ms);
        let opened = open::open(facts, hello, pace, clock_ms).map(|mut opening| {
            saw_if(
                opening.node.quarantined.is_some() && !was_quarantined,
                "state: fork found by starts that alternate",
            );
            saw_if(
                opening.restored.is_some(),
                "state: restore found by a Hello",
            );
            saw_if(
                opening.strand_leases,
                "state: lease of a lost disk stranded",
            );
            if !self.was_restored
                && let Some(said) = &opening.node.suspicion
            {
                self.wrong = Some(format!("{node} is believed that {said}, which is not so"));
            }
            if !self.was_restored
                && let Some(evidence) = &opening.restored
            {
                self.wrong = Some(format!("no database was restored, but {evidence}"));
            }
            self.database.rows.nodes.insert(node, opening.node.clone());
            if opening.restored.is_some() {
                trace!("{now_ms} restored: {:?}", opening.restored);
                self.bump(opening.welcome.state_epoch);
            } else if opening.node.suspicion.is_none() {
                self.database.window.unheard.remove(&node);
            }
            if opening.welcome.report {
                let has = self.on_nodes.get(&node).cloned().unwrap_or_default();
                self.database.settled.remove(&node);
                self.kept.entry(node).or_insert(has);
            }
            if opening.strand_leases {
                self.database.strand(node);
            }
            if self.mutation == Some(Mutation::BaselineFromZero) {
                for mark in &mut opening.welcome.marks {
                    mark.totals = Totals::default();
                }
            }
            Box::new(opening)
        });
        // Older streams of the node may learn late that they are.
        let older: Vec<_> = self
            .streams
            .iter()
            .filter(|(other, stream)| **other != id && stream.node == node)
            .map(|(other, _)| *other)
            .collect();
        for other in older {
            if random.chance(500) {
                self.feed(other, Event::Superseded, now_ms);
            }
        }
        if self.lags_behind == Some(node) {
            self.replica = Some(self.database.clone());
        }
        self.feed(id, Event::Opened(opened), now_ms);
    }

    /// Ends streams that the database does not know (any more); when the barrier has come down, all
    /// nodes are told what they may have.
    pub(super) fn look_at_restore(&mut self, now_ms: i64, random: &mut Random) {
        let streams = self.streams.iter();
        let live: Vec<_> = streams
            .filter_map(|(id, stream)| {
                let generation = stream.session.as_ref()?.generation();
                (generation > Generation(0)).then_some((*id, stream.node, generation))
            })
            .collect();
        for (id, node, generation) in live {
            let epoch = self.database.rows.standing.epoch;
            let facts = self.database.rows.nodes.get(&node);
            let awaited = facts.is_some_and(|facts| facts.must_report(epoch));
            if !self.is_newest(node, generation) {
                self.feed(id, Event::Superseded, now_ms);
            } else if awaited {
                self.feed(id, Event::Awaited, now_ms);
            }
        }
        if std::mem::take(&mut self.failed_over) {
            self.ring(Event::Drain { spread_ms: 5_000 }, now_ms);
        }
        let held = self.database.rows.standing.held;
        if std::mem::replace(&mut self.was_held, held) && !held {
            let ids: Vec<_> = self.streams.keys().copied().collect();
            for id in ids {
                self.tell_allowances(id, now_ms, random);
            }
        }
    }

    /// What a node may have that it was not told.
    pub(super) fn tell_allowances(&mut self, id: u64, now_ms: i64, random: &mut Random) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let node = stream.node;
        let generation = stream.session.as_ref().map(Session::generation);
        if !generation.is_some_and(|generation| self.is_newest(node, generation)) {
            return;
        }
        let policy = self.policy;
        let clock_ms = self.clock(now_ms);
        self.database.open_leases(node, &policy, clock_ms, random);
        let epoch = self.database.rows.standing.epoch;
        let facts = self.database.rows.nodes.get(&node);
        if facts.is_none_or(|facts| facts.must_report(epoch)) {
            return;
        }
        let grants = self.database.unanswered(node);
        if !grants.is_empty() {
            self.feed(id, Event::Grants(grants), now_ms);
        }
    }

    /// A node has reported: fenced by the stream's generation.
    pub(super) fn reported(
        &mut self,
        id: u64,
        epoch: StateEpoch,
        leases: u64,
        now_ms: i64,
        random: &mut Random,
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let (node, session) = (stream.node, stream.session.as_ref());
        let Some(generation) = session.map(Session::generation) else {
            return;
        };
        if !self.is_newest(node, generation) {
            return self.feed(id, Event::Superseded, now_ms);
        }
        if random.chance(self.failures) {
            return self.feed(id, Event::IngestFailed, now_ms);
        }
        // One that has reported on another stream holds what it was granted since.
        let facts = self.database.rows.nodes.get(&node);
        let awaited = facts.is_some_and(|facts| facts.must_report(epoch));
        if epoch == self.database.rows.standing.epoch && awaited {
            let all = facts.is_some_and(|facts| facts.holds_reports(epoch, leases));
            saw_if(!all, "state: lease reports were lost before they counted");
            if !all && self.mutation != Some(Mutation::LostReportsOverlooked) {
                return self.feed(id, Event::IngestFailed, now_ms);
            }
            self.database.report(node, generation);
            self.tell_allowances(id, now_ms, random);
        }
    }
}
