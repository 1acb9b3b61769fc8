//! An older database than before takes the place of a newer one: nothing is billed twice, nothing is
//! granted before every node has reported, and nobody goes.

use vpnpanel_domain::{Limit, MicroBytes, PeerId};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::collector::ingest::Submission;
use vpnpanel_link::collector::open::Opening;
use vpnpanel_link::{
    AppliedState, Digest, EpochSummary, Generation, Grant, Hello, LeaseState, Pace, Revision, Seq,
    StateEpoch,
};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Answered, Page, Progress, Removals, Store, StoreError, User, on_each_database,
};

use crate::fixture::{Agent, World, new_node};

const MIB: u64 = 1024 * 1024;

on_each_database!(
    what_an_agent_knows_of_a_later_life_opens_the_barrier,
    what_was_billed_in_a_later_life_is_billed_once_and_held_by_nobody_else,
    a_lease_that_a_whole_report_does_not_name_is_freed_and_another_opened,
    what_somebody_declares_ends_every_stream_and_asks_every_node,
    a_node_that_is_written_off_is_not_awaited_and_holds_nothing,
    nobody_goes_before_a_node_has_once_had_what_it_should_have,
    a_tenants_node_speaks_for_itself_until_another_says_the_same,
    a_report_of_which_the_database_lost_a_part_frees_nothing_and_is_made_again,
);

fn page() -> Page<vpnpanel_domain::NodeId> {
    Page {
        after: None,
        size: 10,
    }
}

async fn open(store: &Store, agent: &mut Agent, hello: Hello) -> Opening {
    let opening = store
        .open_stream(agent.node, &hello, Pace::default(), "test")
        .await
        .unwrap();
    agent.generation = opening.welcome.generation;
    agent.state_epoch = opening.welcome.state_epoch;
    opening
}

async fn leased(store: &Store, agent: &Agent) -> Vec<Grant> {
    store
        .open_leases(agent.node, agent.generation, &Policy::default())
        .await
        .unwrap()
}

/// It has said all, whatever of it is on record.
async fn reported(store: &Store, agent: &Agent) -> bool {
    said(store, agent, 0).await.unwrap()
}

/// It has said all, in so many lease reports.
async fn said(store: &Store, agent: &Agent, leases: u64) -> Result<bool, StoreError> {
    store
        .node_reported(agent.node, agent.generation, agent.state_epoch, leases)
        .await
}

fn held(grant: Grant, consumed: u64) -> LeaseState {
    LeaseState {
        user: grant.user,
        period: grant.period,
        lease: grant.lease,
        version: grant.version,
        allowance: grant.allowance,
        consumed: MicroBytes::from_bytes(consumed),
    }
}

async fn billed(world: &World, store: &Store, user: &User) -> MicroBytes {
    let user = store.user(world.tenant, user.id).await.unwrap();
    user.period.used
}

/// What a node's leases reserve, which ends with the question.
async fn freed(store: &Store, agent: &Agent) -> MicroBytes {
    let done = store.write_off_node(None, agent.node).await;
    done.unwrap().freed
}

/// A user with a limit on two nodes, of which the first has been granted something since the backup.
struct Restored {
    world: World,
    /// The older database, in the place of `world.store`.
    backup: TestStore,
    user: User,
    peer: PeerId,
    first: Agent,
    second: Agent,
    grant: Grant,
}

impl Restored {
    async fn new(test: TestStore) -> Self {
        let world = World::new(test).await;
        let other = new_node(&world.store, None, "paris").await;
        let user = world.user("ada", Limit::Bytes(40 * MIB)).await;
        let peer = world.peer(world.node, user.id).await;
        let first = Agent::connect(&world.store, world.node).await;
        let second = Agent::connect(&world.store, other).await;
        let backup = world.test.copy().await;
        let grant = leased(&world.store, &first).await[0];
        Self {
            world,
            backup,
            user,
            peer,
            first,
            second,
            grant,
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            leases: vec![held(self.grant, 0)],
            ..self.first.hello()
        }
    }
}

async fn what_an_agent_knows_of_a_later_life_opens_the_barrier(test: TestStore) {
    let mut all = Restored::new(test).await;
    let store = all.backup.store.clone();
    let before = store.restore(page()).await.unwrap();
    assert_eq!(
        (before.held, before.state_epoch),
        (false, StateEpoch::FIRST)
    );

    let hello = all.second.hello();
    let opening = open(&store, &mut all.second, hello).await;
    assert!(opening.restored.is_none() && !opening.welcome.report);
    let hello = all.hello();
    let opening = open(&store, &mut all.first, hello).await;
    assert!(opening.restored.is_some() && opening.welcome.report);
    let epoch = opening.welcome.state_epoch;
    assert!(opening.welcome.generation.get() >= epoch.floor());

    let restore = store.restore(page()).await.unwrap();
    assert!(restore.held && restore.evidence.contains("lease"));
    assert_eq!(restore.node_id, Some(all.first.node));
    assert_eq!((restore.awaited, restore.nodes.len()), (2, 2));
    let stale = store
        .open_leases(all.second.node, all.second.generation, &Policy::default())
        .await;
    assert!(matches!(stale, Err(StoreError::StreamSuperseded)));

    let hello = all.second.hello();
    assert!(open(&store, &mut all.second, hello).await.welcome.report);
    assert!(!reported(&store, &all.second).await, "one is awaited still");
    assert!(leased(&store, &all.second).await.is_empty());
    let awaited = store.restore(page()).await.unwrap().nodes;
    assert_eq!(awaited.len(), 1);
    assert_eq!(awaited[0].id, all.first.node);
    assert!(reported(&store, &all.first).await, "the last");
    assert!(!leased(&store, &all.second).await.is_empty());
    let restore = store.restore(page()).await.unwrap();
    assert!(!restore.held && restore.closed_at_ms.is_some());
}

async fn what_was_billed_in_a_later_life_is_billed_once_and_held_by_nobody_else(test: TestStore) {
    let mut all = Restored::new(test).await;
    let (store, policy) = (all.backup.store.clone(), Policy::default());
    let row = all.first.row(all.peer, &all.user, (0, 0), (0, 10 * MIB));
    let batch = all.first.batch(vec![row], store.now_ms());
    let paid = all.first.submission(vec![batch.clone()]);
    let later = all.world.store.ingest(vec![paid], &policy).await.unwrap();
    let acked = later.replies[0].committed[0];

    let hello = Hello {
        epochs: vec![EpochSummary {
            epoch: acked.epoch,
            first: Seq(1),
            last: acked.seq,
            tail: acked.digest,
            acked: acked.seq,
        }],
        ..all.hello()
    };
    let opening = open(&store, &mut all.first, hello).await;
    assert!(opening.welcome.cursors.is_empty(), "all of it comes again");
    let hello = all.second.hello();
    open(&store, &mut all.second, hello).await;

    let lease = later.replies[0]
        .grants
        .first()
        .copied()
        .unwrap_or(all.grant);
    let mut again = all.first.submission(vec![batch.clone()]);
    again.leases = vec![held(lease, 10 * MIB)];
    again.reported = Some(all.first.state_epoch);
    let ingested = store.ingest(vec![again], &policy).await.unwrap();
    assert_eq!(ingested.replies[0].committed, [acked]);
    assert!(ingested.replies[0].grants.is_empty(), "nobody is granted");
    assert_eq!(ingested.replies[0].reported, Some(all.first.state_epoch));
    let repeated = all.first.submission(vec![batch]);
    store.ingest(vec![repeated], &policy).await.unwrap();
    let used = billed(&all.world, &store, &all.user).await;
    assert_eq!(used, MicroBytes::from_bytes(10 * MIB));

    reported(&store, &all.first).await;
    assert!(reported(&store, &all.second).await);
    leased(&store, &all.second).await;
    let kept = freed(&store, &all.first).await;
    assert_eq!(kept, lease.allowance.saturating_sub(used));
    let granted = freed(&store, &all.second).await;
    assert!(!granted.is_zero());
    assert!(used + kept + granted <= MicroBytes::from_bytes(40 * MIB));
}

async fn a_lease_that_a_whole_report_does_not_name_is_freed_and_another_opened(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(40 * MIB)).await;
    world.peer(world.node, user.id).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    let grant = leased(&world.store, &agent).await[0];
    let copy = world.test.copy().await;
    let store = copy.store.clone();
    store.declare_restore().await.unwrap();
    let hello = agent.hello();
    let opening = open(&store, &mut agent, hello).await;
    assert!(opening.ack.grants.is_empty(), "not under the same id");
    assert!(
        store
            .unanswered_grants(agent.node)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(reported(&store, &agent).await);
    let another = leased(&store, &agent).await[0];
    assert_ne!(another.lease, grant.lease);
    assert!(another.version >= agent.state_epoch.floor());
    assert_eq!(
        freed(&store, &agent).await,
        another.allowance,
        "and no more"
    );
}

async fn what_somebody_declares_ends_every_stream_and_asks_every_node(test: TestStore) {
    let world = World::new(test).await;
    let store = world.store.clone();
    let mut agent = Agent::connect(&store, world.node).await;
    let epoch = store.declare_restore().await.unwrap();
    let looked = store.look_at_restore(&[agent.node]).await.unwrap();
    assert!(looked.held_since_ms.is_some() && looked.awaited == 1);
    assert_eq!(looked.streams, [(agent.node, agent.generation, true)]);
    assert!(agent.generation.get() < epoch.floor());
    let usage = agent.submission(vec![agent.batch(Vec::new(), store.now_ms())]);
    let ingested = store.ingest(vec![usage], &Policy::default()).await.unwrap();
    assert!(ingested.replies[0].superseded);

    let hello = agent.hello();
    let opening = open(&store, &mut agent, hello).await;
    assert_eq!(opening.welcome.state_epoch, epoch);
    let states = store.node_states(&[agent.node]).await.unwrap();
    assert!(states[&agent.node].awaited);
    assert!(reported(&store, &agent).await);
    let states = store.node_states(&[agent.node]).await.unwrap();
    assert!(!states[&agent.node].awaited);
    assert!(store.declare_restore().await.unwrap() > epoch);
}

async fn a_node_that_is_written_off_is_not_awaited_and_holds_nothing(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(40 * MIB)).await;
    world.peer(world.node, user.id).await;
    let store = world.store.clone();
    let mut agent = Agent::connect(&store, world.node).await;
    let grant = leased(&store, &agent).await[0];
    store.declare_restore().await.unwrap();
    let done = store.write_off_node(None, world.node).await.unwrap();
    assert_eq!((done.leases, done.freed), (1, grant.allowance));
    assert!(!store.restore(page()).await.unwrap().held);
    let again = store.write_off_node(None, world.node).await.unwrap();
    assert_eq!(again.leases, 0);
    let other = store.write_off_node(Some(world.tenant), world.node).await;
    assert!(matches!(other, Err(StoreError::NotFound(_))));

    let hello = Hello {
        leases: vec![held(grant, MIB)],
        ..agent.hello()
    };
    assert!(open(&store, &mut agent, hello).await.welcome.report);
    assert!(
        leased(&store, &agent).await.is_empty(),
        "not before it reports"
    );
    let mut submission = agent.submission(Vec::new());
    submission.leases = vec![held(grant, MIB)];
    let policy = Policy::default();
    let ingested = store.ingest(vec![submission], &policy).await.unwrap();
    assert!(!ingested.replies[0].superseded);
    reported(&store, &agent).await;
}

async fn nobody_goes_before_a_node_has_once_had_what_it_should_have(test: TestStore) {
    let world = World::new(test).await;
    let store = world.store.clone();
    let mut agent = Agent::connect(&store, world.node).await;
    let removals = async || store.desired_state(world.node).await.unwrap().removals;
    assert_eq!(removals().await, Removals::Few);
    store.confirm_removals(None, world.node).await.unwrap();
    assert_eq!(removals().await, Removals::Any);
    store.declare_restore().await.unwrap();
    assert_eq!(removals().await, Removals::None, "a word of before");

    let former = agent.generation;
    let hello = agent.hello();
    open(&store, &mut agent, hello).await;
    let progress = |generation: Generation, settled| Progress {
        node_id: world.node,
        generation,
        told: None,
        applied: Some(Answered {
            state: AppliedState {
                revision: Revision(1),
                digest: Digest([7; 32]),
            },
            settled,
            errors: None,
        }),
    };
    for answer in [progress(former, true), progress(agent.generation, false)] {
        store.record_progress(&[answer]).await.unwrap();
        assert_eq!(removals().await, Removals::None);
    }
    let hello = agent.hello();
    let opening = open(&store, &mut agent, hello).await;
    assert_eq!(opening.on_record, None, "nothing can build on it");
    let settled = progress(agent.generation, true);
    store.record_progress(&[settled]).await.unwrap();
    assert_eq!(removals().await, Removals::Few);
    let hello = agent.hello();
    assert!(open(&store, &mut agent, hello).await.on_record.is_some());
}

async fn a_tenants_node_speaks_for_itself_until_another_says_the_same(test: TestStore) {
    let world = World::new(test).await;
    let store = world.store.clone();
    let mine = new_node(&store, Some(world.tenant), "mine").await;
    let tenant = crate::fixture::new_tenant(&store, "umbrella").await;
    let theirs = new_node(&store, Some(tenant), "theirs").await;
    let mut agents = Vec::new();
    for node in [mine, theirs] {
        agents.push(Agent::connect(&store, node).await);
    }
    let [mine, theirs] = &mut agents[..] else {
        unreachable!()
    };
    let knowing = |agent: &Agent| Hello {
        generation: Generation(agent.generation.get() + 7),
        ..agent.hello()
    };
    let hello = knowing(mine);
    let opening = open(&store, mine, hello).await;
    assert!(opening.restored.is_none() && opening.welcome.report);
    assert!(!store.restore(page()).await.unwrap().held);
    let states = store.node_states(&[mine.node]).await.unwrap();
    let state = &states[&mine.node];
    assert!(state.awaited && state.suspicion.is_some());
    let removals = store.desired_state(mine.node).await.unwrap().removals;
    assert_eq!(removals, Removals::None);
    reported(&store, mine).await;
    let states = store.node_states(&[mine.node]).await.unwrap();
    assert!(!states[&mine.node].awaited);

    let hello = knowing(theirs);
    assert!(open(&store, theirs, hello).await.restored.is_some());
    assert!(store.restore(page()).await.unwrap().held);
}

async fn a_report_of_which_the_database_lost_a_part_frees_nothing_and_is_made_again(
    test: TestStore,
) {
    let policy = Policy::default();
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(40 * MIB)).await;
    world.peer(world.node, user.id).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    let grant = leased(&world.store, &agent).await[0];
    world.store.declare_restore().await.unwrap();
    let hello = agent.hello();
    assert!(open(&world.store, &mut agent, hello).await.welcome.report);

    // It has come as far as the opening of the stream.
    let replica = world.test.copy().await;
    let store = replica.store.clone();
    let report = |agent: &Agent, leases_before| Submission {
        leases: vec![held(grant, 0)],
        leases_before,
        ..agent.submission(Vec::new())
    };
    let first = vec![report(&agent, 0)];
    let ingested = world.store.ingest(first, &policy).await.unwrap();
    assert!(!ingested.replies[0].superseded);
    let lost = said(&store, &agent, 1).await;
    assert!(matches!(lost, Err(StoreError::ReportLost)), "{lost:?}");
    let second = vec![report(&agent, 1)];
    let ingested = store.ingest(second, &policy).await.unwrap();
    assert!(ingested.replies[0].superseded);
    assert!(store.restore(page()).await.unwrap().held);

    let hello = agent.hello();
    assert!(open(&store, &mut agent, hello).await.welcome.report);
    for _ in 0..2 {
        // Nobody may know what came of a commit: then it is handed in again.
        let again = vec![report(&agent, 0)];
        let ingested = store.ingest(again, &policy).await.unwrap();
        assert!(!ingested.replies[0].superseded);
    }
    let more = said(&store, &agent, 2).await;
    assert!(matches!(more, Err(StoreError::ReportLost)), "counted once");
    assert!(
        said(&store, &agent, 1).await.unwrap(),
        "the barrier is down"
    );
    assert_eq!(freed(&store, &agent).await, grant.allowance, "it was kept");
}
