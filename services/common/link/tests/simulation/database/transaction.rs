//! What an ingest transaction reads and writes.

use vpnpanel_domain::{LeaseId, NodeId, PeriodId};
use vpnpanel_link::collector::ingest::{Effects, Needs};
use vpnpanel_link::collector::{LeaseFacts, Loaded};

use super::{Changed, Database};

impl Database {
    pub(crate) fn load(&self, needs: &Needs) -> Loaded {
        fn some<K: Copy + Eq + std::hash::Hash, V: Clone>(
            rows: &std::collections::HashMap<K, V>,
            keys: &[K],
        ) -> std::collections::HashMap<K, V> {
            keys.iter()
                .filter_map(|key| Some((*key, rows.get(key)?.clone())))
                .collect()
        }
        let named = |node: &NodeId, id: &LeaseId| {
            let mut former = self.stranded.iter();
            let found = former.find(|(of, _, lease)| of == node && lease.lease == *id);
            found.map(|(_, _, lease)| *lease)
        };
        Loaded {
            standing: self.rows.standing,
            former: needs
                .former
                .iter()
                .filter_map(|(node, _, id)| Some(((*node, *id), named(node, id)?)))
                .collect(),
            nodes: some(&self.rows.nodes, &needs.nodes),
            cursors: some(&self.rows.cursors, &needs.cursors),
            digests: some(&self.rows.digests, &needs.digests),
            marks: some(&self.rows.marks, &needs.marks),
            periods: some(&self.rows.periods, &needs.periods),
            leases: some(&self.rows.leases, &needs.leases),
        }
    }

    /// Writes what a transaction decided, and checks that it could be written by bulk
    /// statements: no key twice, every compare-and-swap as expected.
    pub(crate) fn write(
        &mut self,
        effects: &Effects,
        before: &std::collections::HashMap<(NodeId, PeriodId), LeaseFacts>,
    ) -> Result<(), String> {
        for cursor in &effects.cursors {
            let key = (cursor.node, cursor.epoch);
            let found = self.rows.cursors.get(&key).map(|known| known.seq);
            if found != cursor.expected {
                return Err(format!(
                    "cursor of {key:?} is {found:?}, not {:?}",
                    cursor.expected
                ));
            }
            let successor = self
                .rows
                .cursors
                .get(&key)
                .and_then(|known| known.successor);
            self.rows.cursors.insert(
                key,
                vpnpanel_link::collector::Cursor {
                    seq: cursor.seq,
                    digest: cursor.digest,
                    successor,
                },
            );
        }
        for successor in &effects.successors {
            if let Some(cursor) = self
                .rows
                .cursors
                .get_mut(&(successor.node, successor.epoch))
            {
                cursor.successor = Some(successor.successor);
            }
        }
        for digest in &effects.digests {
            self.rows
                .digests
                .insert((digest.node, digest.epoch, digest.seq), digest.digest);
        }
        for (node, at) in &effects.written {
            if let Some(facts) = self.rows.nodes.get_mut(node) {
                facts.last_written_at_ms = facts.last_written_at_ms.max(Some(*at));
            }
        }
        once(&effects.lease_reports, |(node, _)| *node, "node")?;
        for (node, reports) in &effects.lease_reports {
            if let Some(facts) = self.rows.nodes.get_mut(node) {
                facts.lease_reports = *reports;
            }
        }
        once(&effects.marks, |(key, _)| *key, "mark")?;
        for (key, mark) in &effects.marks {
            if let Some(known) = self.rows.marks.get(key)
                && !mark.totals.covers(known.totals)
            {
                return Err(format!("the mark of {key:?} went back"));
            }
            self.rows.marks.insert(*key, *mark);
        }
        for credit in &effects.buckets {
            let usage = self
                .usage
                .entry((credit.node, credit.user, credit.period))
                .or_default();
            usage.up += credit.up;
            usage.down += credit.down;
            usage.billed += credit.billed;
        }
        once(&effects.periods, |credit| credit.period, "period")?;
        for credit in &effects.periods {
            if let Some(facts) = self.rows.periods.get_mut(&credit.period) {
                facts.used += credit.billed;
                facts.reserved = credit.reserved;
            }
            let raw = self.raw.entry(credit.period).or_default();
            raw.0 += credit.up;
            raw.1 += credit.down;
        }
        for ((node, period, id), lease) in &effects.replaced {
            let current = self.rows.leases.remove(&(*node, *period));
            if current.is_none_or(|current| current.lease != *id) {
                return Err(format!("{id} is replaced on {node}, and not current"));
            }
            self.stranded.push((*node, *period, *lease));
        }
        once(&effects.leases, |(key, _)| *key, "lease")?;
        for (key, lease) in &effects.leases {
            self.rows.leases.insert(*key, *lease);
        }
        for reply in &effects.replies {
            for grant in &reply.grants {
                let key = (reply.node, grant.period);
                let has = self.rows.leases.get(&key).map(|lease| lease.allowance);
                let had = before.get(&key).map(|lease| lease.allowance);
                self.granted(
                    grant.period,
                    had.unwrap_or_default(),
                    has.unwrap_or_default(),
                );
            }
        }
        once(&effects.former, |(key, _)| *key, "former lease")?;
        for ((node, _, id), lease) in &effects.former {
            let mut former = self.stranded.iter_mut();
            match former.find(|(of, _, known)| of == node && known.lease == *id) {
                Some((_, _, known)) => *known = *lease,
                None => return Err(format!("{id} on {node} is not a former lease")),
            }
        }
        for (node, reason) in &effects.quarantined {
            if let Some(facts) = self.rows.nodes.get_mut(node) {
                facts.quarantined = Some(reason.clone());
            }
        }
        self.orphans.extend(effects.orphans.iter().copied());
        for crossing in &effects.limited {
            self.change(Changed::User(crossing.user));
        }
        Ok(())
    }
}

fn once<T, K: Ord + std::fmt::Debug>(
    rows: &[T],
    key: impl Fn(&T) -> K,
    what: &str,
) -> Result<(), String> {
    match rows.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1])) {
        Some(pair) => Err(format!(
            "{what} {:?} is not in order or comes twice",
            key(&pair[1])
        )),
        None => Ok(()),
    }
}
