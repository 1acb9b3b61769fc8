//! Users whose clock begins with their first traffic. The earliest that any node reports fixes the
//! beginning: a report that comes later and tells of earlier traffic moves it, and the end with it,
//! so that what was added to the end meanwhile stays added.

use std::collections::BTreeMap;

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{Limit, MicroBytes, PeriodId, TenantId, UserFacts, UserId, UserStatus};
use vpnpanel_link::Bucket;
use vpnpanel_link::collector::ingest::BucketCredit;

use super::write::run;
use crate::changes::Entry;
use crate::error::{Result, StoreError};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;
use crate::user_extend::LAST_MS;

/// The clock of a user that has, or had, to begin with its first traffic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Since when it waits.
    pub(crate) since: i64,
    /// What has begun it so far.
    pub(crate) started_at: Option<i64>,
    /// When the period began that the clock was found by.
    pub(crate) period_starts_at: i64,
}

/// Clocks, by the periods that usage is billed to.
pub(crate) type Clocks = BTreeMap<PeriodId, Clock>;

impl Clock {
    /// When traffic of a bucket began it: at the end of that at the latest, and never before it waited.
    /// Traffic of before that is none of it: where it is, the period tells, because a node's clock may
    /// be wrong; and of an older period a bucket that had begun before, because it may be of either.
    fn begins(self, bucket: Bucket, now: i64) -> Option<i64> {
        if bucket.starts_ms() < self.since && self.period_starts_at < self.since {
            return None;
        }
        let seen = (bucket.ends_ms() - 1).min(now);
        let at = seen.max(self.since);
        self.started_at.is_none_or(|known| at < known).then_some(at)
    }
}

/// Begins clocks, or has them begun earlier.
pub(crate) async fn start(tx: &mut Write, clocks: &Clocks, credits: &[BucketCredit]) -> Result<()> {
    if clocks.is_empty() {
        return Ok(());
    }
    let mut begun: BTreeMap<UserId, i64> = BTreeMap::new();
    for credit in credits {
        let clock = clocks.get(&credit.period);
        let at = clock.and_then(|clock| clock.begins(credit.bucket, tx.now));
        if let Some(at) = at {
            let first = begun.entry(credit.user).or_insert(at);
            *first = at.min(*first);
        }
    }
    if begun.is_empty() {
        return Ok(());
    }
    let text = format!(
        "SELECT id, tenant_id, on_hold_ms, started_at, expires_at, disabled, status, hold_since
         FROM users
         WHERE id {} AND on_hold_ms IS NOT NULL AND deleted_at IS NULL ORDER BY id {{for_update}}",
        sql::in_ids(&**tx, 1)
    );
    let ids = sql::ids(&**tx, begun.keys().copied());
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("id", Column::Id),
            ("started_at", Column::Big),
            ("expires_at", Column::Big),
            ("status", Column::Text),
        ],
    );
    for row in &sql::all(&**tx, text, vec![ids]).await? {
        let user = UserId::new(sql::get::<Uuid>(row, 0)?);
        let Some(at) = begun.get(&user).copied() else {
            continue;
        };
        // It may have been put on hold anew while the lock was waited for.
        if sql::get::<Option<i64>>(row, 7)?.is_some_and(|since| at < since) {
            continue;
        }
        let Some((expires_at, status)) = begin(row, at, tx.now)? else {
            continue;
        };
        rows.push([
            Cell::Id(user.uuid()),
            Cell::Big(at),
            Cell::Big(expires_at),
            Cell::Text(status.as_str()),
        ]);
        tx.changed(Entry::user(TenantId::new(sql::get(row, 1)?), user));
    }
    // Not a change of the user for whoever edits it: like usage, it is nobody's doing.
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE users SET on_hold = FALSE, started_at = s.started_at,
                expires_at = s.expires_at, status = s.status
             FROM {source} WHERE users.id = s.id"
        )
    })
    .await?;
    Ok(())
}

/// The end and the status of a user whose clock began at an instant; `None` where it is known to have
/// begun before that.
fn begin(row: &QueryResult, at: i64, now: i64) -> Result<Option<(i64, UserStatus)>> {
    let lasts: i64 = sql::get(row, 2)?;
    let started_at: Option<i64> = sql::get(row, 3)?;
    let expires_at: Option<i64> = sql::get(row, 4)?;
    let expires_at = match (started_at, expires_at) {
        (Some(known), _) if known <= at => return Ok(None),
        (Some(known), Some(end)) => end.saturating_sub(known - at),
        _ => at.saturating_add(lasts).min(LAST_MS),
    };
    let noted: UserStatus = sql::get::<String>(row, 6)?
        .parse()
        .map_err(|error| StoreError::corrupt("users.status", error))?;
    let facts = UserFacts {
        deleted: false,
        disabled: sql::get(row, 5)?,
        expires_at_ms: Some(expires_at),
        // Whether the limit is reached is noted by whoever counts.
        limit: Limit::None,
        used: MicroBytes::ZERO,
        on_hold: false,
    };
    let status = match (facts.status(now), noted) {
        (UserStatus::Active, UserStatus::Limited) => UserStatus::Limited,
        (status, _) => status,
    };
    Ok(Some((expires_at, status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: i64 = 900_000;
    const LATE: i64 = 100 * QUARTER;
    /// It waits since the middle of the eleventh quarter, and so did its period begin.
    const SINCE: i64 = 10 * QUARTER + QUARTER / 2;
    const CLOCK: Clock = Clock {
        since: SINCE,
        started_at: None,
        period_starts_at: SINCE,
    };

    fn quarter(number: i64) -> Bucket {
        Bucket::at(number * QUARTER)
    }

    #[test]
    fn a_clock_begins_with_the_traffic_but_never_before_it_waited() {
        assert_eq!(CLOCK.begins(quarter(20), LATE), Some(21 * QUARTER - 1));
        let now = 20 * QUARTER + 5;
        assert_eq!(
            CLOCK.begins(quarter(20), now),
            Some(now),
            "not ahead of now"
        );
        assert_eq!(
            CLOCK.begins(quarter(5), LATE),
            Some(SINCE),
            "of a node whose clock is slow"
        );
    }

    #[test]
    fn traffic_of_an_older_period_begins_it_only_where_it_cannot_be_of_before() {
        let older = Clock {
            period_starts_at: 1_000,
            ..CLOCK
        };
        assert_eq!(older.begins(quarter(5), LATE), None);
        assert_eq!(older.begins(quarter(10), SINCE + 3_000), None);
        assert_eq!(older.begins(quarter(11), LATE), Some(12 * QUARTER - 1));
    }

    #[test]
    fn only_earlier_traffic_moves_a_beginning() {
        let begun = Clock {
            started_at: Some(21 * QUARTER - 1),
            ..CLOCK
        };
        assert_eq!(begun.begins(quarter(20), LATE), None);
        assert_eq!(begun.begins(quarter(30), LATE), None);
        assert_eq!(begun.begins(quarter(15), LATE), Some(16 * QUARTER - 1));
    }
}
