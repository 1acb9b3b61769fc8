//! The status of a user over random histories: whatever happens in which order, the strongest reason
//! that holds is what it is, and lifting a reason lets a user on exactly when no other holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use vpnpanel_domain::{Limit, MicroBytes, NextPlanStart, PlanFacts, UserFacts, UserStatus};

/// Something that happens to a user, or to the clock.
#[derive(Debug, Clone, Copy)]
enum Step {
    Use(u64),
    Reset,
    SetLimit(u64),
    EndIn(Option<i64>),
    Hold,
    FirstUse(i64),
    Disable,
    Enable,
    Delete,
    Undelete,
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u64..50).prop_map(Step::Use),
        Just(Step::Reset),
        (0_u64..100).prop_map(Step::SetLimit),
        proptest::option::of(-20_i64..200).prop_map(Step::EndIn),
        Just(Step::Hold),
        (1_i64..100).prop_map(Step::FirstUse),
        Just(Step::Disable),
        Just(Step::Enable),
        Just(Step::Delete),
        Just(Step::Undelete),
        // Clocks are set back too.
        (-30_i64..60).prop_map(Step::Pass),
    ]
}

fn happen(step: Step, user: &mut UserFacts, now: &mut i64) {
    match step {
        Step::Use(bytes) => user.used += MicroBytes::from_bytes(bytes),
        Step::Reset => user.used = MicroBytes::ZERO,
        Step::SetLimit(bytes) => user.limit = Limit::from_wire(bytes),
        Step::EndIn(after) => {
            user.expires_at_ms = after.map(|after| *now + after);
            user.on_hold = false;
        }
        Step::Hold => {
            user.expires_at_ms = None;
            user.on_hold = true;
        }
        Step::FirstUse(lasts) => {
            if user.on_hold {
                user.on_hold = false;
                user.expires_at_ms = Some(*now + lasts);
            }
        }
        Step::Disable => user.disabled = true,
        Step::Enable => user.disabled = false,
        Step::Delete => user.deleted = true,
        Step::Undelete => user.deleted = false,
        Step::Pass(ms) => *now += ms,
    }
}

/// Reasons that hold, each looked at by itself, the weakest first.
fn reasons(user: &UserFacts, now: i64) -> Vec<UserStatus> {
    let limit = user.limit.to_wire();
    let mut reasons = vec![UserStatus::Active];
    if user.on_hold {
        reasons.push(UserStatus::OnHold);
    }
    if limit > 0 && user.used >= MicroBytes::from_bytes(limit) {
        reasons.push(UserStatus::Limited);
    }
    if user.expires_at_ms.is_some_and(|end| now >= end) {
        reasons.push(UserStatus::Expired);
    }
    if user.disabled {
        reasons.push(UserStatus::Disabled);
    }
    if user.deleted {
        reasons.push(UserStatus::Deleted);
    }
    reasons
}

proptest! {
    #[test]
    fn the_strongest_reason_holds_after_every_step_of_any_history(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let (mut user, mut now) = (UserFacts::default(), 1_000_000);
        for step in steps {
            let before = reasons(&user, now);
            happen(step, &mut user, &mut now);
            let after = reasons(&user, now);
            let status = user.status(now);
            prop_assert_eq!(status, *after.last().unwrap(), "{:?}", step);
            let connects = after
                .iter()
                .all(|reason| matches!(reason, UserStatus::Active | UserStatus::OnHold));
            prop_assert_eq!(status.may_connect(false), connects);
            prop_assert!(!status.may_connect(true));
            // One step lifts what it is about and nothing else.
            if let Step::Reset | Step::SetLimit(_) | Step::Enable | Step::Undelete = step {
                let lifts = match step {
                    Step::Enable => UserStatus::Disabled,
                    Step::Undelete => UserStatus::Deleted,
                    _ => UserStatus::Limited,
                };
                for reason in before.iter().filter(|reason| **reason != lifts) {
                    prop_assert!(after.contains(reason), "{:?} lifted {}", step, reason);
                }
            }
        }
    }

    #[test]
    fn a_plan_is_over_only_for_who_is_stopped_or_has_come_to_another_period(
        steps in proptest::collection::vec(step(), 1..40),
        is_endless in any::<bool>(),
        is_period_over in any::<bool>(),
    ) {
        let (mut user, mut now) = (UserFacts::default(), 1_000_000);
        for step in steps {
            happen(step, &mut user, &mut now);
            let facts = PlanFacts { status: user.status(now), is_endless, is_period_over };
            let (first, last) = (
                NextPlanStart::FirstEnd.is_due(facts),
                NextPlanStart::PlanEnd.is_due(facts),
            );
            prop_assert!(first || !last, "what is over at its own end is over at the first");
            if user.disabled || user.deleted {
                prop_assert!(!first);
            } else if facts.status.may_connect(false) {
                prop_assert_eq!((first, last), (is_period_over, false));
            } else {
                prop_assert!(first);
                prop_assert_eq!(last, is_endless || facts.status == UserStatus::Expired);
            }
        }
    }
}
