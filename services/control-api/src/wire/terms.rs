//! Limits and access as users and plans have them: the same words, under the name of either.

use std::collections::BTreeSet;

use vpnpanel_api::user::v1::{
    NextPlan as WireNext, NextPlanStart as WireStart, ResetStrategy as WireStrategy, UsageReset,
};
use vpnpanel_domain::{GroupId, NextPlanStart, ResetStrategy, Speed};
use vpnpanel_store::NextPlan;

use super::{IntoWire, ids};
use crate::Error;

/// A speed limit in a field.
pub(crate) fn speed(field: &'static str, bps: u64) -> Result<Speed, Error> {
    Speed::new(bps).map_err(|error| Error::field(field, error.to_string()))
}

/// When a quota begins anew; `field` is that of its days.
pub(crate) fn reset_strategy(
    field: &'static str,
    reset: Option<&UsageReset>,
) -> Result<ResetStrategy, Error> {
    let Some(reset) = reset else {
        return Ok(ResetStrategy::None);
    };
    let days = reset.rolling_days;
    let strategy = match reset.strategy() {
        WireStrategy::Unspecified | WireStrategy::None => ResetStrategy::None,
        WireStrategy::Daily => ResetStrategy::Daily,
        WireStrategy::Weekly => ResetStrategy::Weekly,
        WireStrategy::Monthly => ResetStrategy::Monthly,
        WireStrategy::Yearly => ResetStrategy::Yearly,
        WireStrategy::Rolling => ResetStrategy::Rolling { days },
    };
    if days != 0 && !matches!(strategy, ResetStrategy::Rolling { .. }) {
        return Err(Error::field(field, "is only for a rolling quota"));
    }
    strategy
        .validate()
        .map_err(|error| Error::field(field, error.to_string()))?;
    Ok(strategy)
}

/// What follows; `field` is that of its plan. One that names no plan is none.
pub(crate) fn next_plan(
    field: &'static str,
    next: Option<&WireNext>,
) -> Result<Option<NextPlan>, Error> {
    let Some(next) = next else { return Ok(None) };
    let Some(plan_id) = ids::optional(field, &next.plan_id)? else {
        return Ok(None);
    };
    let start = match next.start() {
        WireStart::Unspecified | WireStart::FirstEnd => NextPlanStart::FirstEnd,
        WireStart::PlanEnd => NextPlanStart::PlanEnd,
    };
    Ok(Some(NextPlan { plan_id, start }))
}

/// Groups in a field.
pub(crate) fn groups(field: &'static str, texts: &[String]) -> Result<BTreeSet<GroupId>, Error> {
    Ok(ids::list(field, texts)?.into_iter().collect())
}

impl IntoWire for NextPlan {
    type Wire = WireNext;

    fn into_wire(self) -> WireNext {
        let start = match self.start {
            NextPlanStart::FirstEnd => WireStart::FirstEnd,
            NextPlanStart::PlanEnd => WireStart::PlanEnd,
        };
        WireNext {
            plan_id: self.plan_id.to_string(),
            start: start.into(),
        }
    }
}

impl IntoWire for ResetStrategy {
    type Wire = UsageReset;

    fn into_wire(self) -> UsageReset {
        let (strategy, rolling_days) = match self {
            Self::None => (WireStrategy::None, 0),
            Self::Daily => (WireStrategy::Daily, 0),
            Self::Weekly => (WireStrategy::Weekly, 0),
            Self::Monthly => (WireStrategy::Monthly, 0),
            Self::Yearly => (WireStrategy::Yearly, 0),
            Self::Rolling { days } => (WireStrategy::Rolling, days),
        };
        UsageReset {
            strategy: strategy.into(),
            rolling_days,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_plan_that_names_none_is_none() {
        assert_eq!(next_plan("f", None).unwrap(), None);
        assert_eq!(next_plan("f", Some(&WireNext::default())).unwrap(), None);
        let junk = WireNext {
            plan_id: "x".to_owned(),
            ..WireNext::default()
        };
        assert!(next_plan("f", Some(&junk)).is_err());
    }

    #[test]
    fn days_are_for_a_rolling_quota_alone() {
        let reset = |strategy: WireStrategy, rolling_days| UsageReset {
            strategy: strategy.into(),
            rolling_days,
        };
        assert!(reset_strategy("f", Some(&reset(WireStrategy::Daily, 3))).is_err());
        assert!(reset_strategy("f", Some(&reset(WireStrategy::Rolling, 0))).is_err());
        let rolling = reset_strategy("f", Some(&reset(WireStrategy::Rolling, 3))).unwrap();
        assert_eq!(rolling, ResetStrategy::Rolling { days: 3 });
        assert_eq!(rolling.into_wire(), reset(WireStrategy::Rolling, 3));
    }
}
