//! Verification of a chain against what is known of it: each event's hash, the head that the
//! chainer left, the checkpoint that retention left, and a link that somebody noted elsewhere.

use uuid::Uuid;
use vpnpanel_domain::TenantId;

use super::chain::{self, AuditTail};
use super::hash::GENESIS;
use super::stored::{AuditEvent, ChainLink, chain_of, chained};
use crate::connect::Store;
use crate::error::Result;
use crate::page::Page;
use crate::sql;

/// Events that are read at a time.
const BATCH: u32 = 1_000;

/// How far off its place an event is looked for.
const WINDOW: u64 = 1_000;

/// A link of a chain that was noted: what came up to there has to be as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the event.
    pub seq: u64,
    /// Its hash.
    pub hash: Vec<u8>,
}

/// How a chain was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Events that are as they were written, up to the first that is not.
    pub verified: u64,
    /// The event that the chain begins behind, because retention removed it and all before.
    pub begins_after: Option<Anchor>,
    /// The last event that is as it was written.
    pub head: Option<Anchor>,
    /// Events that are not in the chain yet.
    pub tail: AuditTail,
    /// The noted link was compared: `None` when there was none, or it was removed by retention.
    pub anchored: Option<bool>,
    /// The first thing that is not right.
    pub broken: Option<Broken>,
}

/// A place where a chain is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The place.
    pub seq: u64,
    /// The event that is there.
    pub event_id: Option<Uuid>,
    /// What is wrong with it.
    pub breach: Breach,
}

/// What is wrong with a place of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// The event, or the one before it, is not as it was written.
    Tampered,
    /// An event is missing there.
    Removed,
    /// The event belongs to another place.
    Reordered,
    /// The event was not put there by the chainer.
    Inserted,
    /// The chain agrees with itself, and not with the link that was noted.
    Rewritten,
}

impl Store {
    /// Verifies the chain of a tenant or, with `None`, of the platform, at one moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn verify_audit(
        &self,
        tenant: Option<TenantId>,
        anchor: Option<&Anchor>,
    ) -> Result<Verification> {
        let db = self.snapshot_in(tenant).await?;
        let chain = chain_of(tenant);
        let begins_after = last(&db, chain, LAST_CHECKPOINT).await?;
        let mut walk = Walk {
            seq: begins_after.as_ref().map_or(0, |link| link.seq),
            hash: begins_after
                .as_ref()
                .map_or(GENESIS.to_vec(), |link| link.hash.clone()),
            verified: 0,
            anchor,
            anchored: None,
        };
        walk.compare();
        let mut broken = match &begins_after {
            Some(link) if !is_recorded(&db, chain, link).await? => Some(Broken {
                seq: link.seq,
                event_id: None,
                breach: Breach::Removed,
            }),
            _ => walk.rewritten(),
        };
        while broken.is_none() {
            let events = chained(&db, chain, Page::after(BATCH, walk.seq)).await?;
            if events.is_empty() {
                let head = last(&db, chain, HEAD).await?;
                let places = places(&db, chain).await?;
                broken = walk.end(head, places);
                break;
            }
            for event in &events {
                broken = walk.step(event);
                if broken.is_some() {
                    break;
                }
            }
        }
        if let Some(found) = &mut broken {
            walk.explain(&db, chain, found).await?;
        }
        let tail = chain::tail(&db, Some(tenant)).await?;
        db.commit().await?;
        Ok(Verification {
            verified: walk.verified,
            begins_after,
            head: (walk.seq > 0).then_some(Anchor {
                seq: walk.seq,
                hash: walk.hash,
            }),
            tail,
            anchored: walk.anchored,
            broken,
        })
    }
}

/// Where a verification stands: everything up to `seq` is right.
struct Walk<'a> {
    seq: u64,
    hash: Vec<u8>,
    verified: u64,
    anchor: Option<&'a Anchor>,
    anchored: Option<bool>,
}

impl Walk<'_> {
    fn step(&mut self, event: &AuditEvent) -> Option<Broken> {
        let Some(link) = &event.link else { return None };
        let expected = self.seq + 1;
        let broken = |seq, breach| {
            Some(Broken {
                seq,
                event_id: Some(event.id),
                breach,
            })
        };
        if link.seq > expected {
            return Some(Broken {
                seq: expected,
                event_id: None,
                breach: Breach::Removed,
            });
        }
        if link.seq < expected {
            return broken(link.seq, Breach::Inserted);
        }
        if link.prev_hash != self.hash || link.hash != event.hash_at(link.seq, &link.prev_hash) {
            return broken(expected, Breach::Tampered);
        }
        self.seq = expected;
        self.hash.clone_from(&link.hash);
        self.verified += 1;
        self.compare();
        self.rewritten()
    }

    /// Compares with the noted link, where this is its place.
    fn compare(&mut self) {
        if let Some(anchor) = self.anchor.filter(|anchor| anchor.seq == self.seq) {
            self.anchored = Some(anchor.hash == self.hash);
        }
    }

    fn rewritten(&self) -> Option<Broken> {
        (self.anchored == Some(false)).then_some(Broken {
            seq: self.seq,
            event_id: None,
            breach: Breach::Rewritten,
        })
    }

    /// The chain has to end where the chainer left it, and not before a noted link; and no event
    /// may have a place besides those that were walked through.
    fn end(&self, head: Option<Anchor>, places: u64) -> Option<Broken> {
        let at = |seq, breach| {
            Some(Broken {
                seq,
                event_id: None,
                breach,
            })
        };
        match head {
            None if places == 0 => {}
            None => return at(self.seq, Breach::Inserted),
            Some(head) if head.seq > self.seq => return at(self.seq + 1, Breach::Removed),
            Some(head) if head.seq < self.seq => return at(head.seq + 1, Breach::Inserted),
            Some(head) if head.hash != self.hash => return at(head.seq, Breach::Tampered),
            Some(_) if places != self.verified => return at(self.seq, Breach::Inserted),
            Some(_) => {}
        }
        match self.anchor {
            Some(anchor) if anchor.seq > self.seq => at(self.seq + 1, Breach::Removed),
            _ => None,
        }
    }

    /// Tells an event that was moved from one that was changed: its hash is right for another
    /// place, or that of its place is right for another event.
    async fn explain(
        &self,
        db: &impl sea_orm::ConnectionTrait,
        chain: Uuid,
        broken: &mut Broken,
    ) -> Result<()> {
        if broken.breach != Breach::Tampered || broken.seq != self.seq + 1 {
            return Ok(());
        }
        let first = broken.seq.saturating_sub(WINDOW);
        let near = chained(db, chain, Page::after(BATCH * 2, first)).await?;
        let Some((event, link)) = near.iter().find_map(|event| {
            let link = event.link.as_ref()?;
            (Some(event.id) == broken.event_id).then_some((event, link))
        }) else {
            return Ok(());
        };
        let elsewhere = (first..=broken.seq + WINDOW)
            .filter(|&seq| seq != broken.seq)
            .any(|seq| link.hash == event.hash_at(seq, &link.prev_hash));
        let another = near
            .iter()
            .filter(|other| other.id != event.id)
            .any(|other| is_of(link, other, &self.hash));
        if elsewhere || another {
            broken.breach = Breach::Reordered;
        }
        Ok(())
    }
}

/// Whether a place's hash is the one that `event` had there.
fn is_of(link: &ChainLink, event: &AuditEvent, prev: &[u8]) -> bool {
    link.hash == event.hash_at(link.seq, prev)
}

const HEAD: &str = "SELECT seq, hash FROM audit_heads WHERE tenant_id = $1";

const LAST_CHECKPOINT: &str = "SELECT through_seq, hash FROM audit_checkpoints
     WHERE tenant_id = $1 ORDER BY through_seq DESC LIMIT 1";

async fn last(
    db: &impl sea_orm::ConnectionTrait,
    chain: Uuid,
    text: &str,
) -> Result<Option<Anchor>> {
    let Some(row) = sql::one(db, text, vec![chain.into()]).await? else {
        return Ok(None);
    };
    Ok(Some(Anchor {
        seq: sql::unsigned(sql::get(&row, 0)?),
        hash: sql::get(&row, 1)?,
    }))
}

/// How many events of a chain have a place in it.
async fn places(db: &impl sea_orm::ConnectionTrait, chain: Uuid) -> Result<u64> {
    let text = "SELECT COUNT(*) FROM audit_events WHERE tenant_id = $1 AND seq IS NOT NULL";
    let row = sql::one(db, text, vec![chain.into()]).await?;
    Ok(row.map_or(Ok(0), |row| sql::get(&row, 0).map(sql::unsigned))?)
}

/// Whether an event tells of a checkpoint: one without was not made by retention.
async fn is_recorded(
    db: &impl sea_orm::ConnectionTrait,
    chain: Uuid,
    link: &Anchor,
) -> Result<bool> {
    let name = chain::checkpoint_name(link.seq, &link.hash);
    let row = sql::one(
        db,
        "SELECT 1 FROM audit_events
         WHERE tenant_id = $1 AND resource_id = $2 AND resource_type = $3 LIMIT 1",
        vec![chain.into(), name.into(), chain::CHECKPOINT.into()],
    )
    .await?;
    Ok(row.is_some())
}
