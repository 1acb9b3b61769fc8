//! What a node is told to do once: kept until it has a result or its time is over.

use vpnpanel_domain::{CommandId, NodeId, TenantId};
use vpnpanel_link::{CommandAnswer, Generation};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    CommandKind, CommandResult, CommandState, NewNodeCommand, NodeCommand, Page, StoreError,
    fresh_id, on_each_database,
};

use crate::audit::support::lease;
use crate::fixture::{Agent, World};

on_each_database!(
    a_repeated_request_finds_the_command_that_the_first_one_made,
    a_command_is_taken_once_by_each_stream_until_it_has_a_result,
    a_stream_that_was_superseded_takes_and_notes_nothing,
    what_another_disk_was_given_is_not_given_again,
    what_is_over_is_not_taken_and_a_late_result_still_counts,
    a_quarantined_node_is_told_nothing,
    only_so_many_wait_at_a_time,
    pages_follow_each_other_and_show_no_output,
    the_sweep_says_what_has_expired_and_forgets_what_ended_long_ago,
);

const TTL_MS: i64 = 60_000;
const MONTH_MS: i64 = 31 * 86_400_000;

fn new(node_id: NodeId) -> NewNodeCommand {
    NewNodeCommand {
        id: fresh_id(),
        node_id,
        request_id: fresh_id(),
        kind: CommandKind::RestartEngine,
        ttl_ms: TTL_MS,
    }
}

async fn command(world: &World) -> NodeCommand {
    let made = world.store.create_node_command(None, new(world.node));
    made.await.unwrap()
}

async fn shown(world: &World, id: CommandId) -> NodeCommand {
    let shown = world.store.node_command(None, world.node, id);
    shown.await.unwrap()
}

/// The commands that an agent's stream takes.
async fn taken(world: &World, agent: &Agent) -> Vec<CommandId> {
    let taken = world.store.commands_to_send(world.node, agent.generation);
    taken.await.unwrap().iter().map(|it| it.id).collect()
}

async fn answer(
    world: &World,
    generation: Generation,
    id: CommandId,
    answer: CommandAnswer,
) -> Result<(), StoreError> {
    let result = CommandResult { id, answer };
    let store = &world.store;
    store.command_answered(world.node, generation, result).await
}

async fn a_repeated_request_finds_the_command_that_the_first_one_made(test: TestStore) {
    let world = World::new(test).await;
    let first = new(world.node);
    let made = world.store.create_node_command(None, first).await.unwrap();
    assert_eq!(made.state, CommandState::Pending);
    assert_eq!(made.expires_at_ms, made.created_at_ms + TTL_MS);
    world.test.clock.advance(1_000);
    let again = NewNodeCommand {
        id: fresh_id(),
        ..first
    };
    let found = world.store.create_node_command(None, again).await.unwrap();
    assert_eq!(found, made);
    for other in [
        NewNodeCommand {
            kind: CommandKind::Drain,
            ..again
        },
        NewNodeCommand {
            ttl_ms: TTL_MS + 1,
            ..again
        },
    ] {
        let refused = world.store.create_node_command(None, other).await;
        assert!(matches!(refused, Err(StoreError::RequestIdReused)));
    }
    let strangers = world
        .store
        .create_node_command(Some(world.tenant), new(world.node));
    assert!(matches!(strangers.await, Err(StoreError::NotFound("node"))));
}

async fn a_command_is_taken_once_by_each_stream_until_it_has_a_result(test: TestStore) {
    let world = World::new(test).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    assert_eq!(taken(&world, &agent).await, []);
    let (first, second) = (command(&world).await.id, command(&world).await.id);
    assert_eq!(taken(&world, &agent).await, [first, second]);
    assert_eq!(taken(&world, &agent).await, [], "this stream has them");
    let sent = shown(&world, first).await;
    assert_eq!(sent.state, CommandState::Sent);

    world.test.clock.advance(1_000);
    agent.reconnect(&world.store).await;
    assert_eq!(taken(&world, &agent).await, [first, second]);
    let again = shown(&world, first).await;
    assert_eq!(again.sent_at_ms, sent.sent_at_ms, "when it was first sent");
    let done = CommandAnswer::done("a\0b".to_owned());
    answer(&world, agent.generation, first, done).await.unwrap();
    let failed = CommandAnswer::failed("no");
    let twice = answer(&world, agent.generation, first, failed.clone());
    twice.await.unwrap();
    answer(&world, agent.generation, second, failed)
        .await
        .unwrap();
    let (one, two) = (shown(&world, first).await, shown(&world, second).await);
    assert_eq!(
        one.state,
        CommandState::Succeeded,
        "the first result stands"
    );
    assert_eq!(one.output, "a\u{fffd}b");
    assert!(one.ended_at_ms >= sent.sent_at_ms);
    assert_eq!((two.state, &*two.message), (CommandState::Failed, "no"));

    agent.reconnect(&world.store).await;
    assert_eq!(taken(&world, &agent).await, []);
}

async fn a_stream_that_was_superseded_takes_and_notes_nothing(test: TestStore) {
    let world = World::new(test).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    let id = command(&world).await.id;
    assert_eq!(taken(&world, &agent).await, [id]);
    let old = agent.generation;
    agent.reconnect(&world.store).await;
    let late = world.store.commands_to_send(world.node, old).await;
    assert!(matches!(late, Err(StoreError::StreamSuperseded)));
    let done = CommandAnswer::done(String::new());
    let late = answer(&world, old, id, done).await;
    assert!(matches!(late, Err(StoreError::StreamSuperseded)));
    assert_eq!(shown(&world, id).await.state, CommandState::Sent);
    assert_eq!(taken(&world, &agent).await, [id]);
}

async fn what_another_disk_was_given_is_not_given_again(test: TestStore) {
    let world = World::new(test).await;
    let lost = Agent::connect(&world.store, world.node).await;
    let given = command(&world).await.id;
    assert_eq!(taken(&world, &lost).await, [given]);
    let waiting = command(&world).await.id;

    let fresh = Agent::connect(&world.store, world.node).await;
    assert_eq!(taken(&world, &fresh).await, [waiting]);
    let given = shown(&world, given).await;
    assert_eq!(given.state, CommandState::Failed);
    assert!(given.message.contains("disk"), "{}", given.message);
}

async fn what_is_over_is_not_taken_and_a_late_result_still_counts(test: TestStore) {
    let world = World::new(test).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    let begun = command(&world).await.id;
    assert_eq!(taken(&world, &agent).await, [begun]);
    let waiting = command(&world).await.id;
    world.test.clock.advance(TTL_MS);
    agent.reconnect(&world.store).await;
    assert_eq!(taken(&world, &agent).await, []);
    for id in [begun, waiting] {
        assert_eq!(shown(&world, id).await.state, CommandState::Expired);
    }
    let lease = lease(&world.store).await;
    world.store.expire_node_commands(&lease, 10).await.unwrap();

    let done = || CommandAnswer::done(String::new());
    for id in [begun, waiting] {
        answer(&world, agent.generation, id, done()).await.unwrap();
    }
    assert_eq!(shown(&world, begun).await.state, CommandState::Succeeded);
    let never_sent = shown(&world, waiting).await;
    assert_eq!(never_sent.state, CommandState::Expired);
}

async fn a_quarantined_node_is_told_nothing(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    command(&world).await;
    let quarantined = world.store.quarantine_node(world.node, "two agents");
    quarantined.await.unwrap();
    assert_eq!(taken(&world, &agent).await, []);
}

async fn only_so_many_wait_at_a_time(test: TestStore) {
    let world = World::new(test).await;
    for _ in 0..vpnpanel_link::MAX_OPEN_COMMANDS {
        command(&world).await;
    }
    let refused = world.store.create_node_command(None, new(world.node)).await;
    assert!(matches!(refused, Err(StoreError::TooManyCommands)));
    // Those whose time is over wait no more.
    world.test.clock.advance(TTL_MS);
    command(&world).await;
}

async fn pages_follow_each_other_and_show_no_output(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(command(&world).await.id);
    }
    taken(&world, &agent).await;
    let done = CommandAnswer::done("lines".to_owned());
    let noted = answer(&world, agent.generation, made[0], done);
    noted.await.unwrap();
    let list = |page| world.store.node_commands(None, world.node, page);
    let first = list(Page::first(2)).await.unwrap();
    assert_eq!(first.iter().map(|it| it.id).collect::<Vec<_>>(), made[..2]);
    assert_eq!(first[0].output, "", "one command at a time shows it");
    let rest = list(Page::after(2, made[1])).await.unwrap();
    assert_eq!(rest.iter().map(|it| it.id).collect::<Vec<_>>(), made[2..]);
    let nowhere: NodeId = fresh_id();
    for (tenant, node) in [(None, nowhere), (Some(world.tenant), world.node)] {
        let tenant: Option<TenantId> = tenant;
        let refused = world.store.node_commands(tenant, node, Page::first(1));
        assert!(matches!(refused.await, Err(StoreError::NotFound("node"))));
    }
}

async fn the_sweep_says_what_has_expired_and_forgets_what_ended_long_ago(test: TestStore) {
    let world = World::new(test).await;
    let id = command(&world).await.id;
    let held = lease(&world.store).await;
    let sweep = || world.store.expire_node_commands(&held, 10);
    assert_eq!(sweep().await.unwrap(), 0);
    world.test.clock.advance(TTL_MS);
    assert_eq!(sweep().await.unwrap(), 1);
    let expired = shown(&world, id).await;
    assert_eq!(expired.state, CommandState::Expired);
    assert!(expired.ended_at_ms >= Some(expired.expires_at_ms));
    assert_eq!(sweep().await.unwrap(), 0);
    world.test.clock.advance(MONTH_MS);
    let lease = lease(&world.store).await;
    let swept = world.store.expire_node_commands(&lease, 10).await;
    assert_eq!(swept.unwrap(), 1);
    let gone = world.store.node_command(None, world.node, id).await;
    assert!(matches!(gone, Err(StoreError::NotFound("command"))));
}
