//! Commands reach the node once on each of its streams, until they have a result or their time is over.

use std::time::Duration;

use vpnpanel_domain::CommandId;
use vpnpanel_link::{Command, CommandAnswer, CommandResult, Up};
use vpnpanel_store::{
    CommandKind, CommandState, NewNodeCommand, NodeCommand, fresh_id, on_each_database,
    testing::TestStore,
};

use crate::{
    agent::{Disk, Link, reason},
    fleet::{Fleet, Node},
};

on_each_database! {
    a_command_reaches_the_open_stream_and_its_result_is_on_record,
    without_an_answer_it_comes_again_on_the_next_stream_and_with_one_never,
    what_is_over_is_not_sent_and_what_waits_is_sent_when_the_node_is_back,
    a_stream_that_was_superseded_notes_nothing,
}

const TTL_MS: i64 = 3_600_000;

async fn give(fleet: &Fleet, node: &Node, kind: CommandKind) -> CommandId {
    let command = NewNodeCommand {
        id: fresh_id(),
        node_id: node.id,
        request_id: fresh_id(),
        kind,
        ttl_ms: TTL_MS,
    };
    let made = fleet.store.create_node_command(Some(fleet.tenant), command);
    made.await.unwrap().id
}

async fn shown(fleet: &Fleet, node: &Node, id: CommandId) -> NodeCommand {
    let shown = fleet.store.node_command(Some(fleet.tenant), node.id, id);
    shown.await.unwrap()
}

/// Looks at a command until it is in a state.
async fn until(fleet: &Fleet, node: &Node, id: CommandId, state: CommandState) -> NodeCommand {
    let looking = async {
        loop {
            let shown = shown(fleet, node, id).await;
            if shown.state == state {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), looking)
        .await
        .expect("the expected state")
}

async fn answer(link: &Link, command: &Command, output: &str) {
    link.send(Up::CommandResult(CommandResult {
        id: command.id,
        answer: CommandAnswer::done(output.to_owned()),
    }))
    .await;
}

async fn a_command_reaches_the_open_stream_and_its_result_is_on_record(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let channel = fleet.channel(Some(node.credentials.clone()));
    let (mut link, _) = Link::greet(channel, &Disk::new()).await;
    link.desired().await;
    let id = give(&fleet, &node, CommandKind::CollectLogs).await;
    let command = link.command().await;
    assert_eq!(
        (command.id, command.kind),
        (id, Some(CommandKind::CollectLogs))
    );
    until(&fleet, &node, id, CommandState::Sent).await;
    // Of a command that nobody gave: heard, and nothing else.
    let unknown = Command {
        id: fresh_id(),
        ..command
    };
    answer(&link, &unknown, "nothing").await;
    answer(&link, &command, "the log").await;
    let done = until(&fleet, &node, id, CommandState::Succeeded).await;
    assert_eq!(done.output, "the log");
    let next = give(&fleet, &node, CommandKind::Drain).await;
    assert_eq!(link.command().await.id, next, "and none of those before");
    fleet.stop().await;
}

async fn without_an_answer_it_comes_again_on_the_next_stream_and_with_one_never(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let disk = Disk::new();
    let channel = || fleet.channel(Some(node.credentials.clone()));
    let (mut lost, _) = Link::greet(channel(), &disk).await;
    let id = give(&fleet, &node, CommandKind::RestartEngine).await;
    assert_eq!(lost.command().await.id, id);
    drop(lost);

    let (mut link, _) = Link::greet(channel(), &disk).await;
    let again = link.command().await;
    assert_eq!(again.id, id);
    answer(&link, &again, "").await;
    until(&fleet, &node, id, CommandState::Succeeded).await;
    drop(link);

    let (mut link, _) = Link::greet(channel(), &disk).await;
    let next = give(&fleet, &node, CommandKind::Resync).await;
    assert_eq!(link.command().await.id, next);
    fleet.stop().await;
}

async fn what_is_over_is_not_sent_and_what_waits_is_sent_when_the_node_is_back(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let over = give(&fleet, &node, CommandKind::RestartEngine).await;
    fleet.test.clock.advance(TTL_MS);
    let waits = give(&fleet, &node, CommandKind::Drain).await;
    let channel = fleet.channel(Some(node.credentials.clone()));
    let (mut link, _) = Link::greet(channel, &Disk::new()).await;
    assert_eq!(link.command().await.id, waits);
    let over = shown(&fleet, &node, over).await;
    assert_eq!((over.state, over.sent_at_ms), (CommandState::Expired, None));
    fleet.stop().await;
}

async fn a_stream_that_was_superseded_notes_nothing(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let disk = Disk::new();
    let channel = fleet.channel(Some(node.credentials.clone()));
    let (mut link, welcome) = Link::greet(channel, &disk).await;
    let id = give(&fleet, &node, CommandKind::RestartEngine).await;
    let command = link.command().await;
    // A newer stream of the node, at another collector: this one has not heard of it.
    let newer = fleet
        .store
        .open_stream(node.id, &disk.hello(), welcome.pace, "elsewhere")
        .await
        .unwrap();
    assert!(newer.welcome.generation > welcome.generation);
    answer(&link, &command, "").await;
    let (_, reason) = reason(&link.end().await);
    assert_eq!(reason, "STREAM_SUPERSEDED");
    assert_eq!(shown(&fleet, &node, id).await.state, CommandState::Sent);
    fleet.stop().await;
}
