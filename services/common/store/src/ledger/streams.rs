//! Opening and ending streams. Each stream of a node gets the next generation, in the row that
//! every later write of the stream is checked against.

mod facts;
mod looks;
mod rows;

use std::collections::HashSet;

use vpnpanel_domain::NodeId;
#[cfg(feature = "testing")]
use vpnpanel_link::Grant;
use vpnpanel_link::collector::NodeFacts;
use vpnpanel_link::collector::open::{self, Opening};
use vpnpanel_link::{Generation, Hello, Pace};

use self::facts::Gathered;
use super::{load, write};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::node_states::good_for_ms;
use crate::restore::{self, Lock};
use crate::sql;
use crate::transaction::Write;

pub(super) use facts::unanswered;
pub(crate) use looks::generations;
pub use looks::{FirstLook, Seen};
pub(crate) use rows::forget_agents;

/// A stream that a node has opened and that is to be let in. Its certificate was verified.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The node.
    pub node: NodeId,
    /// What it says.
    pub hello: Box<Hello>,
}

/// How streams are decided that open in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Together {
    /// Those that say nothing by which others have to be judged.
    Undoubted,
    /// There is but one.
    Alone,
}

/// What came of a group of greetings.
struct Greeted {
    /// By their places; those that could be decided together and are committed.
    opened: Vec<(usize, Result<Opening>)>,
    /// What one of them says may count for others: each is decided by itself.
    apart: Vec<usize>,
}

impl Store {
    /// Opens the stream of a node whose certificate was verified.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a node that was deleted, [`StoreError::Refused`].
    pub async fn open_stream(
        &self,
        node: NodeId,
        hello: &Hello,
        pace: Pace,
        collector: &str,
    ) -> Result<Opening> {
        let hello = Box::new(hello.clone());
        self.open_alone(&Greeting { node, hello }, pace, collector)
            .await
    }

    /// Opens streams of many nodes in one transaction. The answers are in the order of the greetings.
    ///
    /// # Errors
    /// Those of the database, for all of them. What is wrong with one alone is in its answer, as for
    /// [`Store::open_stream`].
    pub async fn open_streams(
        &self,
        greetings: &[Greeting],
        pace: Pace,
        collector: &str,
    ) -> Result<Vec<Result<Opening>>> {
        let mut answers: Vec<Option<Result<Opening>>> = Vec::new();
        answers.resize_with(greetings.len(), || None);
        // Of several streams of one node the later ones supersede the earlier, one by one.
        let (mut first, mut apart) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (place, greeting) in greetings.iter().enumerate() {
            if seen.insert(greeting.node) {
                first.push((place, greeting));
            } else {
                apart.push(place);
            }
        }
        let greeted = self
            .try_open(&first, pace, collector, Lock::Shared, Together::Undoubted)
            .await?;
        for (place, opened) in greeted.opened {
            answers[place] = Some(opened);
        }
        let mut rest = greeted.apart;
        rest.extend(apart);
        rest.sort_unstable();
        for place in rest {
            let opened = self.open_alone(&greetings[place], pace, collector).await;
            answers[place] = Some(opened);
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or(Err(StoreError::NotFound("node"))))
            .collect())
    }

    async fn open_alone(
        &self,
        greeting: &Greeting,
        pace: Pace,
        collector: &str,
    ) -> Result<Opening> {
        // A Hello that proves the database to be an older one is judged again where nobody grants
        // anything meanwhile, or has judged another.
        let mut lock = Lock::Shared;
        loop {
            let one = [(0, greeting)];
            let greeted = self
                .try_open(&one, pace, collector, lock, Together::Alone)
                .await?;
            if let Some((_, opened)) = greeted.opened.into_iter().next() {
                return opened;
            }
            lock = Lock::Exclusive;
        }
    }

    /// Opens streams, each of another node, but for those that take the barrier up under a shared
    /// lock or, among others, say something that others have to be judged by.
    async fn try_open(
        &self,
        greetings: &[(usize, &Greeting)],
        pace: Pace,
        collector: &str,
        lock: Lock,
        together: Together,
    ) -> Result<Greeted> {
        let tx = self.begin().await?;
        let standing = restore::standing(&tx, lock).await?;
        let mut gathered = Gathered::read(&tx, greetings, standing).await?;
        let mut greeted = Greeted {
            opened: Vec::with_capacity(greetings.len()),
            apart: Vec::new(),
        };
        let mut saved = Vec::with_capacity(greetings.len());
        for &(place, greeting) in greetings {
            let Some(facts) = gathered.facts(greeting) else {
                let gone = StoreError::NotFound("node");
                greeted.opened.push((place, Err(gone)));
                continue;
            };
            let spoke = facts.node.spoke;
            let opening = match open::open(facts, &greeting.hello, pace, tx.now) {
                Ok(opening) => opening,
                Err(refusal) => {
                    let refused = StoreError::Refused(refusal);
                    greeted.opened.push((place, Err(refused)));
                    continue;
                }
            };
            let doubts = opening.restored.is_some() || opening.node.spoke != spoke;
            if opening.restored.is_some() && lock == Lock::Shared
                || doubts && together == Together::Undoubted
            {
                greeted.apart.push(place);
                continue;
            }
            if let Some(evidence) = opening.restored {
                let epoch = opening.welcome.state_epoch;
                restore::restored(&tx, standing, epoch, greeting.node, evidence).await?;
            }
            saved.push((greeting, opening.clone()));
            greeted.opened.push((place, Ok(opening)));
        }
        rows::save(&tx, &saved, collector, good_for_ms(pace)).await?;
        tx.commit().await?;
        Ok(greeted)
    }

    /// The generation of a node's newest stream; `None` when it never had one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stream_generation(&self, node: NodeId) -> Result<Option<Generation>> {
        let row = sql::one(
            self.read(),
            "SELECT generation FROM node_links WHERE node_id = $1 AND generation > 0",
            vec![node.uuid().into()],
        )
        .await?;
        row.map(|row| Ok(Generation(sql::unsigned(sql::get(&row, 0)?))))
            .transpose()
    }

    /// For tests: the last step of [`Store::allowances`], for one node.
    ///
    /// # Errors
    /// Those of the database.
    #[cfg(feature = "testing")]
    pub async fn unanswered_grants(&self, node: NodeId) -> Result<Vec<Grant>> {
        let mut grants = facts::unanswered(self.read(), &[node]).await?;
        Ok(grants.remove(&node).unwrap_or_default())
    }

    /// Quarantines a node until its host enrols again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn quarantine_node(&self, node: NodeId, reason: &str) -> Result<()> {
        let tx = self.begin().await?;
        rows::make_rows(&tx, &[node]).await?;
        write::quarantine(&tx, node, reason).await?;
        tx.commit().await
    }
}

/// Locks the link of a node whose newest stream has to be this one; `None` for a node that is gone.
/// A stream of an earlier life of the database lies below the epoch.
pub(crate) async fn fenced(
    tx: &Write,
    node: NodeId,
    generation: Generation,
) -> Result<Option<NodeFacts>> {
    let epoch = restore::standing(tx, Lock::Shared).await?.epoch;
    if generation.get() < epoch.floor() {
        return Err(StoreError::StreamSuperseded);
    }
    match load::nodes(tx, &[node]).await?.remove(&node) {
        Some(facts) if facts.generation != generation => Err(StoreError::StreamSuperseded),
        facts => Ok(facts),
    }
}
