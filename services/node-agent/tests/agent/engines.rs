//! One user on two engines: what is billed, where the limit is, and what a crash of either costs.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpnpanel_link::CommandKind;
use vpnpanel_node_agent::testing::{Download, eventually, require_root};

use crate::support::{ENDLESS, MB, Node, PATIENCE, RATE};

#[test]
fn a_user_who_comes_by_both_engines_is_stopped_on_both_at_one_limit() {
    if !require_root() {
        return;
    }
    const LIMIT: u64 = 60 * MB;
    let node = Node::new("both", Some(LIMIT));
    let tunnel = node.tunnel();
    let (client, address) = node.client();
    let by_wireguard = Download::start(node.network.subscriber(0), &node.server, ENDLESS);
    let by_xray = Download::through(node.network.subscriber(1), address, ENDLESS);
    let used = || node.passed_the_tunnel() + node.counted_by_xray();
    eventually("the limit is reached", PATIENCE, || used() >= LIMIT);
    let reached = Instant::now();
    let arrived = || by_wireguard.received() + by_xray.received();
    let mut before = arrived();
    eventually("nothing arrives any more", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = arrived();
        let still = now == before;
        before = now;
        still
    });
    println!(
        "stopped after {:?}, {} of {LIMIT} used",
        reached.elapsed(),
        used()
    );
    assert!(by_wireguard.received() > MB && by_xray.received() > MB);
    assert!(used() < LIMIT + 2 * RATE, "{} of {LIMIT} passed", used());
    eventually("the connection through xray is ended", PATIENCE, || {
        by_xray.ended()
    });
    node.all_is_billed();
    let kinds: Vec<_> = {
        let record = node.panel.record();
        let engines = record.engines.iter();
        engines.map(|e| (e.kind.clone(), e.healthy)).collect()
    };
    let healthy = |kind: &str| (kind.to_owned(), true);
    assert_eq!(kinds, [healthy("wireguard"), healthy("xray")]);
    drop((tunnel, client));
}

#[test]
fn an_agent_that_is_killed_while_both_carry_traffic_loses_and_doubles_nothing() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("killed", None);
    let (client, address) = node.client();
    let host = node.network.subscriber(1);
    let by_xray = Download::through(host, address, ENDLESS);
    {
        let _tunnel = node.tunnel();
        Download::start(node.network.subscriber(0), &node.server, 5 * MB).finish(PATIENCE);
    }
    for _ in 0..3 {
        let billed = node.billed().1;
        eventually("xray's is billed", PATIENCE, || {
            node.billed().1 > billed + 2 * MB
        });
        let xray = node.xray_pid();
        node.kill_agent();
        let received = by_xray.received();
        eventually("it goes on", PATIENCE, || {
            by_xray.received() > received + MB
        });
        node.start_agent();
        assert_eq!(node.xray_pid(), xray, "it outlives the agent");
    }
    drop(by_xray);
    drop(client);
    node.all_is_billed();
    assert!(node.billed().0 > 5 * MB);
}

#[test]
fn an_xray_that_is_killed_comes_back_and_costs_what_was_not_read_and_no_more() {
    if !require_root() {
        return;
    }
    let node = Node::new("died", None);
    let _tunnel = node.tunnel();
    let by_wireguard = Download::start(node.network.subscriber(0), &node.server, ENDLESS);
    let (client, address) = node.client();
    let by_xray = Download::through(node.network.subscriber(1), address, ENDLESS);
    eventually("both are billed", PATIENCE, || {
        let (wireguard, xray) = node.billed();
        wireguard > 5 * MB && xray > 5 * MB
    });
    kill(Pid::from_raw(node.xray_pid()), Signal::SIGKILL).unwrap();
    eventually("the connection ends", PATIENCE, || by_xray.ended());
    let received = by_xray.received();
    eventually("another one passes", PATIENCE, || {
        let again = Download::through(node.network.subscriber(1), address, MB);
        again.finish(PATIENCE) == MB
    });
    let going = by_wireguard.received();
    eventually("the tunnel goes on", PATIENCE, || {
        by_wireguard.received() > going + MB
    });
    drop(by_wireguard);
    eventually("all of the tunnel is billed", PATIENCE, || {
        node.billed().0 == node.passed_the_tunnel()
    });
    let now = node.counted_by_xray();
    eventually("the new life is billed", PATIENCE, || node.billed().1 > now);
    let billed = node.billed().1;
    // Headers come on top of what arrived; what was not read is at most what two polls bring.
    let most = received + received / 10 + now + MB;
    assert!(
        billed <= most,
        "{billed} billed, {received} and {now} passed"
    );
    assert!(
        billed + 2 * RATE > received + now,
        "{billed} billed, {received} and {now} passed"
    );
    node.nothing_was_wrong();
    drop(client);
}

#[test]
fn a_user_who_is_taken_away_is_cut_on_both_and_the_last_byte_is_billed() {
    if !require_root() {
        return;
    }
    let node = Node::new("removed", None);
    let tunnel = node.tunnel();
    let (client, address) = node.client();
    let by_wireguard = Download::start(node.network.subscriber(0), &node.server, ENDLESS);
    let by_xray = Download::through(node.network.subscriber(1), address, ENDLESS);
    eventually("both run", PATIENCE, || {
        by_wireguard.received() > MB && by_xray.received() > MB
    });
    node.panel.remove_users();
    eventually("they are gone", PATIENCE, || node.panel.is_in_force());
    eventually("the connection ends", PATIENCE, || by_xray.ended());
    let received = by_wireguard.received();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(by_wireguard.received(), received);
    node.all_is_billed();
    drop((tunnel, client));
}

#[test]
fn a_new_disk_takes_both_engines_up_where_the_control_plane_has_billed_to() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("disk", None);
    let (client, address) = node.client();
    let by_xray = Download::through(node.network.subscriber(1), address, ENDLESS);
    {
        let _tunnel = node.tunnel();
        Download::start(node.network.subscriber(0), &node.server, 5 * MB).finish(PATIENCE);
    }
    eventually("both are billed", PATIENCE, || {
        let (wireguard, xray) = node.billed();
        wireguard > 5 * MB && xray > MB
    });
    let xray = node.xray_pid();
    node.kill_agent();
    node.lose_spool();
    node.start_agent();
    let billed = node.billed().1;
    eventually("it is billed on", PATIENCE, || {
        node.billed().1 > billed + RATE
    });
    assert!(!by_xray.ended(), "the connection was not touched");
    assert_eq!(node.xray_pid(), xray);
    drop((by_xray, client));
    node.all_is_billed();
}

#[test]
fn a_node_without_xray_says_so_and_serves_wireguard() {
    if !require_root() {
        return;
    }
    let node = Node::with_program("none", None, "/nowhere/xray".into());
    let refused = || {
        let record = node.panel.record();
        record.answer.as_ref().is_some_and(|ack| {
            let [error] = ack.errors.as_slice() else {
                return false;
            };
            error.kind == "inbound" && error.message.contains("xray does not run")
        })
    };
    eventually("the inbound of xray is refused", PATIENCE, refused);
    let _tunnel = node.tunnel();
    let host = node.network.subscriber(0);
    let received = Download::start(host, &node.server, MB).finish(PATIENCE);
    assert_eq!(received, MB);
    eventually("health says why", PATIENCE, || {
        let record = node.panel.record();
        record.engines.iter().any(|engine| {
            engine.kind == "xray" && !engine.healthy && engine.problem.contains("/nowhere/xray")
        })
    });
}

#[test]
fn engines_that_are_restarted_on_purpose_lose_nothing_and_cost_nobody_anything() {
    if !require_root() {
        return;
    }
    let node = Node::new("again", Some(1_000 * MB));
    let (client, address) = node.client();
    let host = node.network.subscriber(1);
    let by_xray = Download::through(host, address, ENDLESS);
    eventually("xray's is billed", PATIENCE, || node.billed().1 > 5 * MB);
    let xray = node.xray_pid();
    let id = node.panel.command(CommandKind::RestartEngine);
    eventually("it is done", PATIENCE, || {
        let record = node.panel.record();
        record.results.iter().any(|result| result.id == id)
    });
    eventually("the connection ends", PATIENCE, || by_xray.ended());
    assert_ne!(node.xray_pid(), xray);
    let received = by_xray.received();
    // All that arrived was read, and the allowance is what it was without that.
    eventually("what arrived is billed", PATIENCE, || {
        node.billed().1 >= received
    });
    let billed = node.billed().1;
    assert!(
        billed < received + received / 10 + MB,
        "{billed} of {received}"
    );
    let again = Download::through(host, address, 5 * MB);
    assert_eq!(again.finish(PATIENCE), 5 * MB);
    eventually("the new life is billed too", PATIENCE, || {
        node.billed().1 >= billed + node.counted_by_xray()
    });
    assert_eq!(node.billed().1, billed + node.counted_by_xray());
    node.nothing_was_wrong();
    drop(client);
}
