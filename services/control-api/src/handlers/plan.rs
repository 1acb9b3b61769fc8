//! Plans.

use vpnpanel_api::plan::v1::{
    CreatePlanRequest, CreatePlanResponse, DeletePlanRequest, DeletePlanResponse, GetPlanRequest,
    GetPlanResponse, ListPlansRequest, ListPlansResponse, Plan, UndeletePlanRequest,
    UndeletePlanResponse, UpdatePlanRequest, UpdatePlanResponse,
};
use vpnpanel_domain::{Limit, PlanId, ResetStrategy, SpeedLimit, TenantId};
use vpnpanel_store::{self as store, NewPlan, PlanFilter, PlanPatch, PlanTerms, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, terms, text, time},
};

const CHANGEABLE: &[&str] = &[
    "name",
    "note",
    "data_limit_bytes",
    "usage_reset",
    "duration",
    "starts_on_first_use",
    "speed_limit_up_bps",
    "speed_limit_down_bps",
    "device_limit",
    "group_ids",
    "next_plan",
];

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreatePlanRequest,
) -> Result<CreatePlanResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "CreatePlan",
        &message.request_id,
        &message,
    )?;
    let plan = message.plan.unwrap_or_default();
    let new = NewPlan {
        id: fresh_id(),
        tenant_id,
        name: text::name("plan.name", &plan.name)?,
        terms: terms_of(&plan)?,
        note: plan.note,
    };
    let made = context
        .acting(caller)
        .create_plan(new, key.as_ref())
        .await?;
    Ok(CreatePlanResponse {
        plan: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetPlanRequest,
) -> Result<GetPlanResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.plan_id)?;
    Ok(GetPlanResponse {
        plan: Some(context.store.plan(tenant_id, id).await?.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListPlansRequest,
) -> Result<ListPlansResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let list = List::new("plans")
        .of(tenant_id)
        .of(&message.name_prefix)
        .of(message.show_archived);
    let page = list.page(message.page_size, &message.page_token)?;
    let filter = PlanFilter {
        name_prefix: (!message.name_prefix.is_empty()).then_some(message.name_prefix),
        archived: message.show_archived,
    };
    let mut plans = context
        .store
        .plans(tenant_id, &filter, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut plans, |plan| plan.id.uuid());
    Ok(ListPlansResponse {
        plans: plans.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdatePlanRequest,
) -> Result<UpdatePlanResponse, Error> {
    let plan = message.plan.unwrap_or_default();
    let (tenant_id, id) = named(&plan.tenant_id, &plan.id)?;
    let mask = Mask::read(message.update_mask.as_ref(), CHANGEABLE)?;
    let version = etag::expected(&plan.etag)?;
    let changed = context
        .acting(caller)
        .update_plan(tenant_id, id, patch(&mask, &plan)?, version)
        .await?;
    Ok(UpdatePlanResponse {
        plan: Some(changed.into_wire()),
    })
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeletePlanRequest,
) -> Result<DeletePlanResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.plan_id)?;
    let version = etag::expected(&message.etag)?;
    let archived = context
        .acting(caller)
        .delete_plan(tenant_id, id, version)
        .await?;
    Ok(DeletePlanResponse {
        plan: archived.map(IntoWire::into_wire),
    })
}

pub(crate) async fn undelete(
    context: &Context,
    caller: &Caller,
    message: UndeletePlanRequest,
) -> Result<UndeletePlanResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.plan_id)?;
    let plan = context.acting(caller).undelete_plan(tenant_id, id).await?;
    Ok(UndeletePlanResponse {
        plan: Some(plan.into_wire()),
    })
}

fn named(tenant: &str, plan: &str) -> Result<(TenantId, PlanId), Error> {
    Ok((
        ids::required("tenant_id", tenant)?,
        ids::required("plan_id", plan)?,
    ))
}

fn terms_of(plan: &Plan) -> Result<PlanTerms, Error> {
    let duration_ms = plan.duration.as_ref().map(time::duration_ms);
    if plan.starts_on_first_use && duration_ms.is_none() {
        return Err(Error::field(
            "plan.starts_on_first_use",
            "needs a duration that can begin with the first traffic",
        ));
    }
    Ok(PlanTerms {
        limit: Limit::from_wire(plan.data_limit_bytes),
        reset_strategy: strategy(plan)?,
        duration_ms,
        on_first_use: plan.starts_on_first_use,
        speed: SpeedLimit {
            up: terms::speed("plan.speed_limit_up_bps", plan.speed_limit_up_bps)?,
            down: terms::speed("plan.speed_limit_down_bps", plan.speed_limit_down_bps)?,
        },
        device_limit: plan.device_limit,
        group_ids: terms::groups("plan.group_ids", &plan.group_ids)?,
        next: terms::next_plan("plan.next_plan.plan_id", plan.next_plan.as_ref())?,
    })
}

fn patch(mask: &Mask<'_>, plan: &Plan) -> Result<PlanPatch, Error> {
    let name = mask.take("name", !plan.name.is_empty(), &plan.name);
    let reset = mask.take("usage_reset", plan.usage_reset.is_some(), plan);
    let up = plan.speed_limit_up_bps;
    let up = mask.take("speed_limit_up_bps", up != 0, up);
    let down = plan.speed_limit_down_bps;
    let down = mask.take("speed_limit_down_bps", down != 0, down);
    let groups = mask.take("group_ids", !plan.group_ids.is_empty(), &plan.group_ids);
    let next = mask.take("next_plan", plan.next_plan.is_some(), &plan.next_plan);
    let duration = plan.duration.as_ref().map(time::duration_ms);
    let (limit, devices) = (plan.data_limit_bytes, plan.device_limit);
    let on_first_use = plan.starts_on_first_use;
    Ok(PlanPatch {
        name: name.map(|name| text::name("plan.name", name)).transpose()?,
        note: mask.take("note", !plan.note.is_empty(), plan.note.clone()),
        limit: mask.take("data_limit_bytes", limit != 0, Limit::from_wire(limit)),
        reset_strategy: reset.map(strategy).transpose()?,
        duration_ms: mask.take("duration", duration.is_some(), duration),
        on_first_use: mask.take("starts_on_first_use", on_first_use, on_first_use),
        speed_up: up
            .map(|bps| terms::speed("plan.speed_limit_up_bps", bps))
            .transpose()?,
        speed_down: down
            .map(|bps| terms::speed("plan.speed_limit_down_bps", bps))
            .transpose()?,
        device_limit: mask.take("device_limit", devices != 0, devices),
        group_ids: groups
            .map(|groups| terms::groups("plan.group_ids", groups))
            .transpose()?,
        next: next
            .map(|next| terms::next_plan("plan.next_plan.plan_id", next.as_ref()))
            .transpose()?,
    })
}

fn strategy(plan: &Plan) -> Result<ResetStrategy, Error> {
    terms::reset_strategy("plan.usage_reset.rolling_days", plan.usage_reset.as_ref())
}

impl IntoWire for store::Plan {
    type Wire = Plan;

    fn into_wire(self) -> Plan {
        let terms = self.terms;
        Plan {
            id: self.id.to_string(),
            tenant_id: self.tenant_id.to_string(),
            name: self.name,
            note: self.note,
            data_limit_bytes: terms.limit.to_wire(),
            usage_reset: Some(terms.reset_strategy.into_wire()),
            duration: terms.duration_ms.map(time::duration_of_ms),
            starts_on_first_use: terms.on_first_use,
            speed_limit_up_bps: terms.speed.up.bps(),
            speed_limit_down_bps: terms.speed.down.bps(),
            device_limit: terms.device_limit,
            group_ids: terms.group_ids.iter().map(ToString::to_string).collect(),
            next_plan: terms.next.map(IntoWire::into_wire),
            archive_time: self.archived_at_ms.map(time::timestamp),
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
