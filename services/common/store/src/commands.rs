//! Commands of nodes: what an agent does once. A command is a row before anybody is told of it, and
//! waits there until it has a result or its time is over; the stream of the node's newest generation
//! carries it, again on each stream, and the agent sees to it that it is done once.

use sea_orm::{ConnectionTrait, QueryResult, Value};
use uuid::Uuid;
use vpnpanel_domain::{CommandId, NodeId, TenantId};
use vpnpanel_link::{
    Command, CommandAnswer, CommandKind, CommandOutcome, CommandResult, Generation,
    MAX_OPEN_COMMANDS,
};

use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::page::Page;
use crate::transaction::Write;
use crate::{ledger, nodes, sql};

/// How long a command is kept after its end: 30 days.
const ENDED_KEPT_MS: i64 = 30 * 86_400_000;

/// What has become of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandState {
    /// Waits for a stream.
    Pending,
    /// Was given to the agent.
    Sent,
    /// Done.
    Succeeded,
    /// Not done, or only in part.
    Failed,
    /// Its time was over before there was a result.
    Expired,
    /// Taken back before it was given to the agent.
    Cancelled,
}

impl CommandState {
    const ALL: [Self; 6] = [
        Self::Pending,
        Self::Sent,
        Self::Succeeded,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    fn of(outcome: CommandOutcome) -> Self {
        match outcome {
            CommandOutcome::Succeeded => Self::Succeeded,
            CommandOutcome::Failed => Self::Failed,
            CommandOutcome::Expired => Self::Expired,
        }
    }
}

/// A command of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCommand {
    /// Its id.
    pub id: CommandId,
    /// The node.
    pub node_id: NodeId,
    /// The tenant that the node is dedicated to; `None` is shared.
    pub tenant_id: Option<TenantId>,
    /// What it does.
    pub kind: CommandKind,
    /// What has become of it.
    pub state: CommandState,
    /// When it was made.
    pub created_at_ms: i64,
    /// It does not begin at or after this.
    pub expires_at_ms: i64,
    /// When it was first given to the agent.
    pub sent_at_ms: Option<i64>,
    /// When its result was noted, or its time was found to be over.
    pub ended_at_ms: Option<i64>,
    /// What the agent says about the result.
    pub message: String,
    /// What it brought; empty in lists.
    pub output: String,
}

/// A command to make.
#[derive(Debug, Clone, Copy)]
pub struct NewNodeCommand {
    /// Its id.
    pub id: CommandId,
    /// The node.
    pub node_id: NodeId,
    /// The caller's own name of it.
    pub request_id: Uuid,
    /// What to do.
    pub kind: CommandKind,
    /// How long from now it may begin.
    pub ttl_ms: i64,
}

impl Store {
    /// Makes a command of a node, or finds the one that the same request id made before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the node, [`StoreError::TooManyCommands`],
    /// [`StoreError::RequestIdReused`] for another command under the same id.
    pub async fn create_node_command(
        &self,
        tenant: Option<TenantId>,
        new: NewNodeCommand,
    ) -> Result<NodeCommand> {
        let mut tx = self.begin_in(tenant).await?;
        nodes::lock(&tx, tenant, new.node_id).await?;
        if let Some(before) = requested(&tx, tenant, &new).await? {
            return Ok(before);
        }
        let of_node = vec![new.node_id.uuid().into(), tx.now.into()];
        let open = sql::one(
            &*tx,
            "SELECT COUNT(*) FROM node_commands
             WHERE node_id = $1 AND state IN ('pending', 'sent') AND expires_at > $2",
            of_node,
        )
        .await?
        .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
        if open >= MAX_OPEN_COMMANDS as i64 {
            return Err(StoreError::TooManyCommands);
        }
        let made = NodeCommand {
            id: new.id,
            node_id: new.node_id,
            tenant_id: tenant,
            kind: new.kind,
            state: CommandState::Pending,
            created_at_ms: tx.now,
            expires_at_ms: tx.now.saturating_add(new.ttl_ms),
            sent_at_ms: None,
            ended_at_ms: None,
            message: String::new(),
            output: String::new(),
        };
        insert(&tx, &made, &new).await?;
        tx.changed(Entry::new(ChangeKind::Command, tenant, new.id).on_node(new.node_id));
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// Takes back a command that nobody was given yet; one that was taken back before stays so.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::CommandNotPending`].
    pub async fn cancel_node_command(
        &self,
        tenant: Option<TenantId>,
        node: NodeId,
        id: CommandId,
    ) -> Result<NodeCommand> {
        let mut tx = self.begin_in(tenant).await?;
        nodes::lock(&tx, tenant, node).await?;
        let before = find(&*tx, tenant, node, id, tx.now).await?;
        match before.state {
            CommandState::Pending => {}
            CommandState::Cancelled => return Ok(before),
            _ => return Err(StoreError::CommandNotPending),
        }
        // A stream may take it at this moment.
        let cancelled = sql::run(
            &*tx,
            "UPDATE node_commands SET state = 'cancelled', ended_at = $3
             WHERE node_id = $1 AND id = $2 AND state = 'pending'",
            vec![node.uuid().into(), id.uuid().into(), tx.now.into()],
        )
        .await?;
        if cancelled == 0 {
            return Err(StoreError::CommandNotPending);
        }
        let after = NodeCommand {
            state: CommandState::Cancelled,
            ended_at_ms: Some(tx.now),
            ..before.clone()
        };
        tx.audit(Event::changed(&before, &after));
        tx.commit().await?;
        Ok(after)
    }

    /// Notes a command as given to its agent directly, before it is: false when it is not pending any
    /// more, or the node is quarantined. The node's stream may give it too, and to the agent it is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn give_command_directly(&self, node: NodeId, id: CommandId) -> Result<bool> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        let given = sql::run(
            &*tx,
            "UPDATE node_commands SET state = 'sent', sent_at = $3,
                sent_spool = (SELECT spool FROM node_links l WHERE l.node_id = $1)
             WHERE node_id = $1 AND id = $2 AND state = 'pending' AND expires_at > $3
               AND EXISTS (SELECT 1 FROM node_links l
                           WHERE l.node_id = $1 AND l.quarantine_reason IS NULL)",
            vec![node.uuid().into(), id.uuid().into(), tx.now.into()],
        )
        .await?;
        tx.commit().await?;
        Ok(given == 1)
    }

    /// Notes what came of a command that was given directly, once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn command_answered_directly(
        &self,
        node: NodeId,
        result: CommandResult,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        note_result(&tx, node, result).await?;
        tx.commit().await
    }

    /// One command of a node.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn node_command(
        &self,
        tenant: Option<TenantId>,
        node: NodeId,
        id: CommandId,
    ) -> Result<NodeCommand> {
        let db = self.read_in(tenant).await?;
        find(&db, tenant, node, id, self.now_ms()).await
    }

    /// Commands of a node in the order they were made, without their output.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the node.
    pub async fn node_commands(
        &self,
        tenant: Option<TenantId>,
        node: NodeId,
        page: Page<CommandId>,
    ) -> Result<Vec<NodeCommand>> {
        self.node(tenant, node).await?;
        let db = self.read_in(tenant).await?;
        let mut values = of_owner(tenant, node);
        let after = page.after.map_or(Uuid::nil(), CommandId::uuid);
        values.extend([after.into(), i64::from(page.size).into()]);
        let text = format!(
            "SELECT {COLUMNS}, '' FROM node_commands WHERE {OF_OWNER} AND id > $3 ORDER BY id LIMIT $4"
        );
        let now = self.now_ms();
        sql::all(&db, text, values)
            .await?
            .iter()
            .map(|row| command(row, now))
            .collect()
    }

    /// Takes the commands of a node that wait and that this stream has not carried yet: they are noted
    /// as sent by it. What an earlier disk of the agent was given ends here, because nobody knows any
    /// more whether it was done. A quarantined node gets none.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`].
    pub async fn commands_to_send(
        &self,
        node: NodeId,
        generation: Generation,
    ) -> Result<Vec<Command>> {
        // Most streams open with nothing to carry: that costs no transaction.
        if !has_open(self, node).await? {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        let Some(facts) = ledger::fenced(&tx, node, generation).await? else {
            return Ok(Vec::new());
        };
        if facts.quarantined.is_some() {
            return Ok(Vec::new());
        }
        let spool = facts.spool.map(|spool| spool.as_bytes().to_vec());
        fail_of_other_disks(&tx, node, &spool).await?;
        let commands = unsent(&tx, node, generation).await?;
        let ids = commands.iter().map(|command| command.id);
        let text = format!(
            "UPDATE node_commands SET state = 'sent', sent_at = COALESCE(sent_at, $2),
                sent_generation = $3, sent_spool = $4
             WHERE node_id = $1 AND id {}",
            sql::in_ids(&*tx, 5)
        );
        let values = vec![
            node.uuid().into(),
            tx.now.into(),
            sql::signed(generation.get()).into(),
            spool.into(),
            sql::ids(&*tx, ids),
        ];
        sql::run(&*tx, text, values).await?;
        tx.commit().await?;
        Ok(commands)
    }

    /// Notes what came of a command, once.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`].
    pub async fn command_answered(
        &self,
        node: NodeId,
        generation: Generation,
        result: CommandResult,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        if ledger::fenced(&tx, node, generation).await?.is_none() {
            return Ok(());
        }
        note_result(&tx, node, result).await?;
        tx.commit().await
    }

    /// Marks commands as expired whose time is over without a result, and forgets those that ended a
    /// while ago; at most `limit` of each, under a job's lease. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn expire_node_commands(&self, lease: &JobLease, limit: u32) -> Result<u64> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        jobs::hold(&*tx, lease).await?;
        let values = vec![tx.now.into(), i64::from(limit).into()];
        let mut swept = sql::run(
            &*tx,
            "UPDATE node_commands SET state = 'expired', ended_at = $1
             WHERE (node_id, id) IN (
                 SELECT node_id, id FROM node_commands
                 WHERE state IN ('pending', 'sent') AND expires_at <= $1
                 ORDER BY expires_at LIMIT $2)",
            values,
        )
        .await?;
        let until = tx.now.saturating_sub(ENDED_KEPT_MS);
        swept += sql::run(
            &*tx,
            "DELETE FROM node_commands WHERE (node_id, id) IN (
                 SELECT node_id, id FROM node_commands WHERE ended_at < $1
                 ORDER BY ended_at LIMIT $2)",
            vec![until.into(), i64::from(limit).into()],
        )
        .await?;
        jobs::count(&tx, lease, swept).await?;
        tx.commit().await?;
        Ok(swept)
    }
}

const COLUMNS: &str = "id, node_id, tenant_id, kind, state, created_at, expires_at, sent_at, \
                       ended_at, message";

/// The condition that a command is of a node of this owner.
const OF_OWNER: &str = "tenant_id IS NOT DISTINCT FROM $1 AND node_id = $2";

/// Its values.
fn of_owner(tenant: Option<TenantId>, node: NodeId) -> Vec<Value> {
    vec![tenant.map(TenantId::uuid).into(), node.uuid().into()]
}

/// What the same request made before. Its node is locked.
async fn requested(
    tx: &Write,
    tenant: Option<TenantId>,
    new: &NewNodeCommand,
) -> Result<Option<NodeCommand>> {
    let mut values = of_owner(tenant, new.node_id);
    values.push(new.request_id.into());
    let text = format!(
        "SELECT {COLUMNS}, output, ttl_ms FROM node_commands WHERE {OF_OWNER} AND request_id = $3"
    );
    let Some(row) = sql::one(&**tx, text, values).await? else {
        return Ok(None);
    };
    let before = command(&row, tx.now)?;
    if before.kind != new.kind || sql::get::<i64>(&row, 11)? != new.ttl_ms {
        return Err(StoreError::RequestIdReused);
    }
    Ok(Some(before))
}

async fn find(
    db: &impl ConnectionTrait,
    tenant: Option<TenantId>,
    node: NodeId,
    id: CommandId,
    now_ms: i64,
) -> Result<NodeCommand> {
    let mut values = of_owner(tenant, node);
    values.push(id.uuid().into());
    let text = format!("SELECT {COLUMNS}, output FROM node_commands WHERE {OF_OWNER} AND id = $3");
    sql::one(db, text, values)
        .await?
        .map(|row| command(&row, now_ms))
        .ok_or(StoreError::NotFound("command"))?
}

/// What was given to the agent has a result once.
async fn note_result(tx: &Write, node: NodeId, result: CommandResult) -> Result<()> {
    let CommandAnswer {
        outcome,
        message,
        output,
    } = result.answer;
    // PostgreSQL's text holds no NUL.
    let text = |text: String| -> Value { text.replace('\0', "\u{fffd}").into() };
    sql::run(
        &**tx,
        "UPDATE node_commands SET state = $3, ended_at = $4, message = $5, output = $6
         WHERE node_id = $1 AND id = $2 AND state IN ('sent', 'expired')
           AND sent_at IS NOT NULL",
        vec![
            node.uuid().into(),
            result.id.uuid().into(),
            CommandState::of(outcome).as_str().into(),
            tx.now.into(),
            text(message),
            text(output),
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn insert(tx: &Write, made: &NodeCommand, new: &NewNodeCommand) -> Result<()> {
    sql::run(
        &**tx,
        "INSERT INTO node_commands (tenant_id, node_id, id, request_id, kind, ttl_ms, state,
            created_at, expires_at, message, output)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', '')",
        vec![
            made.tenant_id.map(TenantId::uuid).into(),
            made.node_id.uuid().into(),
            made.id.uuid().into(),
            new.request_id.into(),
            made.kind.as_str().into(),
            new.ttl_ms.into(),
            made.state.as_str().into(),
            made.created_at_ms.into(),
            made.expires_at_ms.into(),
        ],
    )
    .await?;
    Ok(())
}

async fn has_open(store: &Store, node: NodeId) -> Result<bool> {
    let row = sql::one(
        store.read(),
        "SELECT 1 FROM node_commands WHERE node_id = $1 AND state IN ('pending', 'sent') LIMIT 1",
        vec![node.uuid().into()],
    )
    .await?;
    Ok(row.is_some())
}

async fn fail_of_other_disks(tx: &Write, node: NodeId, spool: &Option<Vec<u8>>) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE node_commands SET state = 'failed', ended_at = $2, message = $3
         WHERE node_id = $1 AND state = 'sent' AND sent_spool <> $4",
        vec![
            node.uuid().into(),
            tx.now.into(),
            "the disk of the agent that was given this is gone: nobody can tell whether it was done"
                .into(),
            spool.clone().into(),
        ],
    )
    .await?;
    Ok(())
}

/// Commands whose time is not over, in the order they were made; there are few.
async fn unsent(tx: &Write, node: NodeId, generation: Generation) -> Result<Vec<Command>> {
    sql::all(
        &**tx,
        "SELECT id, kind, expires_at FROM node_commands
         WHERE node_id = $1 AND state IN ('pending', 'sent') AND expires_at > $2
           AND (sent_generation IS NULL OR sent_generation <> $3)
         ORDER BY id {for_update}",
        vec![
            node.uuid().into(),
            tx.now.into(),
            sql::signed(generation.get()).into(),
        ],
    )
    .await?
    .iter()
    .map(|row| {
        Ok(Command {
            id: CommandId::new(sql::get(row, 0)?),
            kind: Some(kind(&sql::get::<String>(row, 1)?)?),
            expires_at_ms: sql::get(row, 2)?,
        })
    })
    .collect()
}

/// A command as it is at this moment: one whose time is over has expired, whether or not a sweep has
/// come by.
fn command(row: &QueryResult, now_ms: i64) -> Result<NodeCommand> {
    let name: String = sql::get(row, 4)?;
    let state = CommandState::ALL
        .into_iter()
        .find(|one| one.as_str() == name)
        .ok_or_else(|| StoreError::corrupt("node_commands.state", &name))?;
    let expires_at_ms: i64 = sql::get(row, 6)?;
    let is_open = matches!(state, CommandState::Pending | CommandState::Sent);
    Ok(NodeCommand {
        id: CommandId::new(sql::get(row, 0)?),
        node_id: NodeId::new(sql::get(row, 1)?),
        tenant_id: sql::get::<Option<Uuid>>(row, 2)?.map(TenantId::new),
        kind: kind(&sql::get::<String>(row, 3)?)?,
        state: match is_open && expires_at_ms <= now_ms {
            true => CommandState::Expired,
            false => state,
        },
        created_at_ms: sql::get(row, 5)?,
        expires_at_ms,
        sent_at_ms: sql::get(row, 7)?,
        ended_at_ms: sql::get(row, 8)?,
        message: sql::get(row, 9)?,
        output: sql::get(row, 10)?,
    })
}

fn kind(name: &str) -> Result<CommandKind> {
    CommandKind::ALL
        .into_iter()
        .find(|one| one.as_str() == name)
        .ok_or_else(|| StoreError::corrupt("node_commands.kind", name))
}
