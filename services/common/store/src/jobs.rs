//! Rows of periodic jobs. A run is a lease with a fence: taking it counts the fence up, and every
//! transaction of the run first locks the row and compares, so that a run whose lease went to
//! another replica commits nothing more (docs/adr/0005). The fence is also the run's number.

use std::time::Duration;

use sea_orm::{ConnectionTrait, QueryResult};
use tracing::info;

use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::page::Page;
use crate::sql;
use crate::transaction::Write;

/// Runs of each job that are kept.
const RUNS_KEPT: i64 = 1_000;

/// A periodic job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What it does, for people.
    pub description: String,
    /// From the end of one run to the start of the next.
    pub interval: Duration,
    /// When it is due, milliseconds of the Unix epoch.
    pub due_at: i64,
    /// It is not started when due.
    pub paused: bool,
    /// Who runs it now.
    pub lease_owner: Option<String>,
    /// The newest run.
    pub last_run: Option<JobRun>,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRun {
    /// Grows with each run of the job.
    pub number: u64,
    /// Who ran it.
    pub owner: String,
    /// When it began, milliseconds of the Unix epoch.
    pub started_at: i64,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<i64>,
    /// How many things it changed.
    pub changed: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// The right to run a job. Every write under it is refused once another replica has the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLease {
    /// The job.
    pub job: String,
    /// The fence, and the number of the run.
    pub fence: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEnd {
    /// Why it failed, where it did.
    pub error: Option<String>,
    /// When the job is due again, from now.
    pub due_in: Duration,
}

impl Store {
    /// Makes the row of a job that is new, and brings its texts and interval up to date.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn register_job(&self, name: &str, description: &str, every: Duration) -> Result<()> {
        let write = self.begin().await?;
        sql::run(
            &*write,
            "INSERT INTO jobs (name, description, interval_ms, due_at, paused, attempts, fence)
             VALUES ($1, $2, $3, $4, $5, 0, 0)
             ON CONFLICT (name) DO UPDATE
             SET description = excluded.description, interval_ms = excluded.interval_ms,
                 due_at = CASE WHEN jobs.due_at < excluded.due_at + excluded.interval_ms
                     THEN jobs.due_at ELSE excluded.due_at + excluded.interval_ms END",
            vec![
                name.into(),
                description.into(),
                millis(every).into(),
                write.now.into(),
                false.into(),
            ],
        )
        .await?;
        write.commit().await
    }

    /// Takes the lease of the job among `names` that has been due the longest; `None` when none is due.
    /// A run that its owner never ended is ended as abandoned.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_job(
        &self,
        names: &[&str],
        owner: &str,
        lease: Duration,
    ) -> Result<Option<JobLease>> {
        // most polls find nothing: they must not take SQLite's only writer
        if !self.any_job_due(names).await? {
            return Ok(None);
        }
        let write = self.begin().await?;
        let now = write.now;
        let mut values = vec![owner.into(), (now + millis(lease)).into(), now.into()];
        let list = placeholders(names, &mut values);
        let claimed = sql::one(
            &*write,
            format!(
                "UPDATE jobs
                 SET lease_owner = $1, lease_until = $2, fence = fence + 1, attempts = attempts + 1
                 WHERE name = (
                     SELECT name FROM jobs
                     WHERE due_at <= $3 AND NOT paused AND name IN ({list})
                       AND (lease_until IS NULL OR lease_until <= $3)
                     ORDER BY due_at, name LIMIT 1 {{for_update}})
                 RETURNING name, fence"
            ),
            values,
        )
        .await?;
        let Some(row) = claimed else { return Ok(None) };
        let (job, fence): (String, i64) = (sql::get(&row, 0)?, sql::get(&row, 1)?);
        let abandoned = sql::run(
            &*write,
            "UPDATE job_runs SET ended_at = $2, error = $3 WHERE job = $1 AND ended_at IS NULL",
            vec![
                job.as_str().into(),
                now.into(),
                "its scheduler went away".into(),
            ],
        )
        .await?;
        if abandoned > 0 {
            info!(
                event = "job.taken_over",
                job, fence, "took a job over from a silent scheduler"
            );
        }
        sql::run(
            &*write,
            "INSERT INTO job_runs (job, number, owner, started_at, changed) VALUES ($1, $2, $3, $4, 0)",
            vec![job.as_str().into(), fence.into(), owner.into(), now.into()],
        )
        .await?;
        write.commit().await?;
        Ok(Some(JobLease {
            job,
            fence: sql::unsigned(fence),
        }))
    }

    async fn any_job_due(&self, names: &[&str]) -> Result<bool> {
        let mut values = vec![self.now_ms().into()];
        let list = placeholders(names, &mut values);
        let due = sql::one(
            self.read(),
            format!(
                "SELECT 1 FROM jobs
                 WHERE due_at <= $1 AND NOT paused AND name IN ({list})
                   AND (lease_until IS NULL OR lease_until <= $1) LIMIT 1"
            ),
            values,
        )
        .await?;
        Ok(due.is_some())
    }

    /// Makes a lease last longer, from now.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn renew_job(&self, lease: &JobLease, length: Duration) -> Result<()> {
        let write = self.begin().await?;
        let renewed = sql::run(
            &*write,
            "UPDATE jobs SET lease_until = $3 WHERE name = $1 AND fence = $2 AND lease_until IS NOT NULL",
            vec![
                lease.job.as_str().into(),
                sql::signed(lease.fence).into(),
                (write.now + millis(length)).into(),
            ],
        )
        .await?;
        if renewed == 0 {
            return Err(StoreError::LeaseLost);
        }
        write.commit().await
    }

    /// Ends a run and gives its lease back. A job that was asked for meanwhile stays due.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn finish_job(&self, lease: &JobLease, end: JobEnd) -> Result<()> {
        let write = self.begin().await?;
        hold(&*write, lease).await?;
        let now = write.now;
        let (job, fence) = (lease.job.as_str(), sql::signed(lease.fence));
        let failed = end.error.is_some();
        sql::run(
            &*write,
            "UPDATE job_runs SET ended_at = $3, error = $4 WHERE job = $1 AND number = $2",
            vec![job.into(), fence.into(), now.into(), end.error.into()],
        )
        .await?;
        sql::run(
            &*write,
            "UPDATE jobs
             SET lease_owner = NULL, lease_until = NULL,
                 attempts = CASE WHEN $4 = 1 THEN attempts ELSE 0 END,
                 due_at = CASE
                     WHEN due_at > (SELECT started_at FROM job_runs WHERE job = $1 AND number = $2)
                     THEN due_at ELSE $3 END
             WHERE name = $1 AND fence = $2",
            vec![
                job.into(),
                fence.into(),
                (now + millis(end.due_in)).into(),
                i64::from(failed).into(),
            ],
        )
        .await?;
        sql::run(
            &*write,
            "DELETE FROM job_runs WHERE job = $1 AND number <= $2",
            vec![job.into(), (fence - RUNS_KEPT).into()],
        )
        .await?;
        write.commit().await
    }

    /// All jobs, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn jobs(&self) -> Result<Vec<Job>> {
        let text = format!("{JOB} ORDER BY j.name");
        sql::all(self.read(), text, vec![])
            .await?
            .iter()
            .map(job)
            .collect()
    }

    /// A job.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and those of the database.
    pub async fn job(&self, name: &str) -> Result<Job> {
        let row = sql::one(
            self.read(),
            format!("{JOB} WHERE j.name = $1"),
            vec![name.into()],
        )
        .await?;
        job(&row.ok_or(StoreError::NotFound("job"))?)
    }

    /// Makes a job due now; one that runs is run once more afterwards.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::JobPaused`], and those of the database.
    pub async fn make_job_due(&self, name: &str) -> Result<()> {
        let mut write = self.begin().await?;
        write.audit(Event::on("job", None, name));
        // one millisecond beyond the start of a run that began just now: see finish_job
        let changed = sql::run(
            &*write,
            "UPDATE jobs SET due_at = CASE WHEN lease_until IS NULL THEN $2 ELSE $2 + 1 END
             WHERE name = $1 AND NOT paused",
            vec![name.into(), write.now.into()],
        )
        .await?;
        if changed == 0 {
            self.job(name).await?;
            return Err(StoreError::JobPaused);
        }
        write.commit().await
    }

    /// Pauses a job, or lets it go on. A run under way goes on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and those of the database.
    pub async fn pause_job(&self, name: &str, paused: bool) -> Result<()> {
        let mut write = self.begin().await?;
        write.audit(Event::on("job", None, name));
        let changed = sql::run(
            &*write,
            "UPDATE jobs SET paused = $2 WHERE name = $1",
            vec![name.into(), paused.into()],
        )
        .await?;
        if changed == 0 {
            return Err(StoreError::NotFound("job"));
        }
        write.commit().await
    }

    /// Runs of a job, the newest first; the page's key is the run's number.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and those of the database.
    pub async fn job_runs(&self, name: &str, page: Page<u64>) -> Result<Vec<JobRun>> {
        let before = page.after.map_or(i64::MAX, sql::signed);
        let rows = sql::all(
            self.read(),
            "SELECT number, owner, started_at, ended_at, changed, error FROM job_runs
             WHERE job = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
            vec![name.into(), before.into(), i64::from(page.size).into()],
        )
        .await?;
        if rows.is_empty() {
            self.job(name).await?;
        }
        rows.iter().map(|row| run(row, 0)).collect()
    }
}

/// Counts what a batch of a run changed into the run's figure.
pub(crate) async fn count(tx: &Write, lease: &JobLease, changed: u64) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE job_runs SET changed = changed + $3 WHERE job = $1 AND number = $2",
        vec![
            lease.job.as_str().into(),
            sql::signed(lease.fence).into(),
            sql::signed(changed).into(),
        ],
    )
    .await?;
    Ok(())
}

/// Locks the job's row until the transaction ends, if the lease still holds.
pub(crate) async fn hold(db: &impl ConnectionTrait, lease: &JobLease) -> Result<()> {
    let held = sql::one(
        db,
        "SELECT 1 FROM jobs WHERE name = $1 AND fence = $2 AND lease_until IS NOT NULL {for_update}",
        vec![lease.job.as_str().into(), sql::signed(lease.fence).into()],
    )
    .await?;
    held.map(|_| ()).ok_or(StoreError::LeaseLost)
}

const JOB: &str = "
    SELECT j.name, j.description, j.interval_ms, j.due_at, j.paused, j.lease_owner,
           r.number, r.owner, r.started_at, r.ended_at, r.changed, r.error
    FROM jobs j LEFT JOIN job_runs r ON r.job = j.name AND r.number = j.fence";

fn job(row: &QueryResult) -> Result<Job> {
    let interval: i64 = sql::get(row, 2)?;
    let ran: Option<i64> = sql::get(row, 6)?;
    Ok(Job {
        name: sql::get(row, 0)?,
        description: sql::get(row, 1)?,
        interval: Duration::from_millis(sql::unsigned(interval)),
        due_at: sql::get(row, 3)?,
        paused: sql::get(row, 4)?,
        lease_owner: sql::get(row, 5)?,
        last_run: ran.map(|_| run(row, 6)).transpose()?,
    })
}

fn run(row: &QueryResult, first: usize) -> Result<JobRun> {
    Ok(JobRun {
        number: sql::unsigned(sql::get(row, first)?),
        owner: sql::get(row, first + 1)?,
        started_at: sql::get(row, first + 2)?,
        ended_at: sql::get(row, first + 3)?,
        changed: sql::unsigned(sql::get(row, first + 4)?),
        error: sql::get(row, first + 5)?,
    })
}

/// Appends `names` to the parameters; gives their placeholders.
fn placeholders(names: &[&str], values: &mut Vec<sea_orm::Value>) -> String {
    let first = values.len() + 1;
    values.extend(names.iter().map(|name| sea_orm::Value::from(*name)));
    (first..first + names.len())
        .map(|number| format!("${number}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
