//! `vpnctl usage`, `audit` and `operation`: what happened, and what is under way.

use super::{Arg, Kind, Noun, Resource, Scope, arg, verb};

const TENANT: Scope = Scope::Tenant("tenantId");
const SINCE: Arg = arg("since", "startTime", Kind::Since, "24h ago, or a time");
const UNTIL: Arg = arg("until", "endTime", Kind::Since, "1h ago, or a time");
const OPERATION_ID: Arg = arg("id", "operationId", Kind::Text, "Its id").first();

pub(crate) const USAGE: Noun = Noun {
    name: "usage",
    about: "What was used, and by whom",
    verbs: &[
        verb(
            "top",
            "Who was billed most in the last seven days",
            "vpnpanel.system.v1.SystemService/GetTenantDashboard",
            TENANT,
            &[],
        )
        .rows("dashboard.topUsers")
        .columns(&["username", "upBytes", "downBytes", "billedBytes"]),
        verb(
            "figures",
            "Users by status, traffic beside the time before, and what needs somebody",
            "vpnpanel.system.v1.SystemService/GetTenantDashboard",
            TENANT,
            &[],
        ),
        verb(
            "explain",
            "What a user's usage is made of",
            "vpnpanel.usage.v1.UsageService/ExplainUserUsage",
            TENANT,
            &[
                arg("user", "userId", Kind::Of(Resource::User), "Username or id").first(),
                SINCE,
                UNTIL,
            ],
        )
        .columns(&[
            "startTime",
            "nodeId",
            "upBytes",
            "downBytes",
            "billedBytes",
            "multiplierPpm",
        ]),
        verb(
            "user",
            "Usage of a user",
            "vpnpanel.usage.v1.UsageService/GetUserUsage",
            TENANT,
            &[
                arg("user", "userId", Kind::Of(Resource::User), "Username or id").first(),
                SINCE,
                UNTIL,
                arg("interval", "interval", Kind::Enum("INTERVAL"), "hour, day"),
            ],
        ),
        verb(
            "tenant",
            "Usage of a tenant",
            "vpnpanel.usage.v1.UsageService/GetTenantUsage",
            TENANT,
            &[
                SINCE,
                UNTIL,
                arg("interval", "interval", Kind::Enum("INTERVAL"), "hour, day"),
            ],
        ),
    ],
};

pub(crate) const AUDIT: Noun = Noun {
    name: "audit",
    about: "Who did what; of the platform, or with --tenant of a tenant",
    verbs: &[
        verb(
            "list",
            "List events, the newest first",
            "vpnpanel.audit.v1.AuditService/ListAuditEvents",
            Scope::Either,
            &[
                arg("actor", "actor", Kind::Text, "Who did it"),
                arg("method", "method", Kind::Text, "By which method"),
                arg("type", "resourceType", Kind::Text, "user, node"),
                arg(
                    "resource",
                    "resourceId",
                    Kind::Text,
                    "Id of what was changed",
                ),
                SINCE,
                UNTIL,
            ],
        )
        .columns(&[
            "time",
            "actor",
            "method",
            "resourceType",
            "resourceId",
            "outcome",
        ]),
        verb(
            "verify",
            "Verify the chain of hashes",
            "vpnpanel.audit.v1.AuditService/VerifyChain",
            Scope::Either,
            &[],
        ),
    ],
};

pub(crate) const OPERATION: Noun = Noun {
    name: "operation",
    about: "Calls that go on after they have answered",
    verbs: &[
        verb(
            "list",
            "List operations",
            "vpnpanel.operation.v1.OperationService/ListOperations",
            TENANT,
            &[],
        )
        .columns(&[
            "id",
            "kind",
            "state",
            "doneCount",
            "failedCount",
            "totalCount",
        ]),
        verb(
            "show",
            "Show an operation",
            "vpnpanel.operation.v1.OperationService/GetOperation",
            TENANT,
            &[OPERATION_ID],
        ),
        verb(
            "cancel",
            "Cancel an operation",
            "vpnpanel.operation.v1.OperationService/CancelOperation",
            TENANT,
            &[OPERATION_ID],
        ),
    ],
};
