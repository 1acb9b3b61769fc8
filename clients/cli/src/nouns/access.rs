//! `vpnctl group`, `inbound` and `plan`: what users may reach, and what they are given.

use super::{Arg, Kind, Noun, Resource, Scope, arg, verb};

const TENANT: Scope = Scope::Tenant("tenantId");
const GROUP_NAME: Arg = arg("group", "groupId", Kind::Of(Resource::Group), "Name or id").first();
const INBOUND_NAME: Arg = arg(
    "inbound",
    "inboundId",
    Kind::Of(Resource::Inbound),
    "Name or id",
)
.first();
const PLAN_NAME: Arg = arg("plan", "planId", Kind::Of(Resource::Plan), "Name or id").first();

pub(crate) const GROUP: Noun = Noun {
    name: "group",
    about: "Sets of inbounds that users belong to",
    verbs: &[
        verb(
            "list",
            "List groups",
            "vpnpanel.access.v1.GroupService/ListGroups",
            TENANT,
            &[],
        )
        .columns(&["id", "name", "inboundIds"]),
        verb(
            "create",
            "Create a group",
            "vpnpanel.access.v1.GroupService/CreateGroup",
            TENANT,
            &[
                arg("name", "group.name", Kind::Text, "Its name").first(),
                arg(
                    "inbounds",
                    "group.inboundIds",
                    Kind::Several(Resource::Inbound),
                    "Names or ids, a,b",
                ),
            ],
        ),
        verb(
            "show",
            "Show a group",
            "vpnpanel.access.v1.GroupService/GetGroup",
            TENANT,
            &[GROUP_NAME],
        ),
        verb(
            "delete",
            "Delete a group",
            "vpnpanel.access.v1.GroupService/DeleteGroup",
            TENANT,
            &[GROUP_NAME],
        ),
    ],
};

pub(crate) const INBOUND: Noun = Noun {
    name: "inbound",
    about: "Where subscribers connect; of the platform, or with --tenant of a tenant",
    verbs: &[
        verb(
            "list",
            "List inbounds",
            "vpnpanel.access.v1.InboundService/ListInbounds",
            Scope::Either,
            &[],
        )
        .columns(&["id", "name", "offeredToTenants", "createTime"]),
        verb(
            "create-wireguard",
            "Create an inbound of WireGuard",
            "vpnpanel.access.v1.InboundService/CreateInbound",
            Scope::Either,
            &[
                arg("name", "inbound.name", Kind::Text, "Its name").first(),
                arg("port", "inbound.wireguard.port", Kind::Number, "UDP port").required(),
                arg(
                    "offered",
                    "inbound.offeredToTenants",
                    Kind::Flag,
                    "Tenants may use it",
                ),
            ],
        ),
        verb(
            "create",
            "Create an inbound of any engine, from JSON",
            "vpnpanel.access.v1.InboundService/CreateInbound",
            Scope::Either,
            &[arg("json", "inbound", Kind::Json, "The inbound; - reads stdin").first()],
        ),
        verb(
            "show",
            "Show an inbound",
            "vpnpanel.access.v1.InboundService/GetInbound",
            Scope::Either,
            &[INBOUND_NAME],
        ),
        verb(
            "delete",
            "Delete an inbound",
            "vpnpanel.access.v1.InboundService/DeleteInbound",
            Scope::Either,
            &[INBOUND_NAME],
        ),
    ],
};

pub(crate) const PLAN: Noun = Noun {
    name: "plan",
    about: "Limits and access that users are given",
    verbs: &[
        verb(
            "list",
            "List plans",
            "vpnpanel.plan.v1.PlanService/ListPlans",
            TENANT,
            &[],
        )
        .columns(&["id", "name", "dataLimitBytes", "duration", "deviceLimit"]),
        verb(
            "create",
            "Create a plan",
            "vpnpanel.plan.v1.PlanService/CreatePlan",
            TENANT,
            &[
                arg("name", "plan.name", Kind::Text, "Its name").first(),
                arg(
                    "data-limit",
                    "plan.dataLimitBytes",
                    Kind::Bytes,
                    "20GB; 0 is none",
                ),
                arg("duration", "plan.duration", Kind::Span, "30d"),
                arg(
                    "groups",
                    "plan.groupIds",
                    Kind::Several(Resource::Group),
                    "Names or ids, a,b",
                ),
                arg(
                    "devices",
                    "plan.deviceLimit",
                    Kind::Number,
                    "Devices at a time",
                ),
            ],
        ),
        verb(
            "show",
            "Show a plan",
            "vpnpanel.plan.v1.PlanService/GetPlan",
            TENANT,
            &[PLAN_NAME],
        ),
        verb(
            "delete",
            "Archive a plan",
            "vpnpanel.plan.v1.PlanService/DeletePlan",
            TENANT,
            &[PLAN_NAME],
        ),
    ],
};
