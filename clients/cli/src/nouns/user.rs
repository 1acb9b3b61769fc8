//! `vpnctl user`.

use super::{Arg, Kind, Noun, Resource, Scope, Verb, arg, verb};

const TENANT: Scope = Scope::Tenant("tenantId");
const WHO: Arg = arg("user", "userId", Kind::Of(Resource::User), "Username or id").first();

/// A verb that needs to know the user alone.
const fn of_one(name: &'static str, about: &'static str, method: &'static str) -> Verb {
    verb(name, about, method, TENANT, &[WHO])
}

pub(crate) const USER: Noun = Noun {
    name: "user",
    about: "Subscribers of the VPN",
    verbs: &[
        verb(
            "list",
            "List users",
            "vpnpanel.user.v1.UserService/ListUsers",
            TENANT,
            &[
                arg(
                    "status",
                    "status",
                    Kind::Enum("USER_STATUS"),
                    "active, limited, expired, disabled",
                ),
                arg(
                    "prefix",
                    "usernamePrefix",
                    Kind::Text,
                    "Beginning of the username",
                ),
                arg(
                    "group",
                    "groupId",
                    Kind::Of(Resource::Group),
                    "Members of this group",
                ),
                arg(
                    "plan",
                    "planId",
                    Kind::Of(Resource::Plan),
                    "Users with this plan",
                ),
            ],
        )
        .columns(&[
            "username",
            "status",
            "usedBytes",
            "dataLimitBytes",
            "expireTime",
            "onlineTime",
        ]),
        verb(
            "create",
            "Create a user",
            "vpnpanel.user.v1.UserService/CreateUser",
            TENANT,
            &[
                arg("username", "user.username", Kind::Text, "Its name").first(),
                arg(
                    "groups",
                    "user.groupIds",
                    Kind::Several(Resource::Group),
                    "Names or ids, a,b",
                ),
                arg(
                    "plan",
                    "user.planId",
                    Kind::Of(Resource::Plan),
                    "Name or id",
                ),
                arg(
                    "data-limit",
                    "user.dataLimitBytes",
                    Kind::Bytes,
                    "20GB; 0 is none",
                ),
                arg("expires", "user.expireTime", Kind::Until, "30d, or a time"),
                arg(
                    "on-hold",
                    "user.onHoldDuration",
                    Kind::Span,
                    "Days from the first use: 30d",
                ),
                arg(
                    "devices",
                    "user.deviceLimit",
                    Kind::Number,
                    "Devices at a time",
                ),
                arg("note", "user.note", Kind::Text, "For people"),
            ],
        ),
        verb(
            "set",
            "Change what is given of a user",
            "vpnpanel.user.v1.UserService/UpdateUser",
            Scope::Tenant("user.tenantId"),
            &[
                arg(
                    "user",
                    "user.id",
                    Kind::Of(Resource::User),
                    "Username or id",
                )
                .first(),
                arg(
                    "groups",
                    "user.groupIds",
                    Kind::Several(Resource::Group),
                    "Names or ids, a,b",
                ),
                arg(
                    "data-limit",
                    "user.dataLimitBytes",
                    Kind::Bytes,
                    "20GB; 0 is none",
                ),
                arg("expires", "user.expireTime", Kind::Until, "30d, or a time"),
                arg(
                    "devices",
                    "user.deviceLimit",
                    Kind::Number,
                    "Devices at a time",
                ),
                arg("note", "user.note", Kind::Text, "For people"),
            ],
        ),
        of_one(
            "show",
            "Show a user",
            "vpnpanel.user.v1.UserService/GetUser",
        ),
        of_one(
            "disable",
            "Cut a user off",
            "vpnpanel.user.v1.UserService/DisableUser",
        ),
        of_one(
            "enable",
            "End that",
            "vpnpanel.user.v1.UserService/EnableUser",
        ),
        of_one(
            "reset",
            "Begin the usage anew",
            "vpnpanel.user.v1.UserService/ResetUserUsage",
        ),
        of_one(
            "delete",
            "Delete a user",
            "vpnpanel.user.v1.UserService/DeleteUser",
        ),
        verb(
            "undelete",
            "Bring a deleted user back, by its id",
            "vpnpanel.user.v1.UserService/UndeleteUser",
            TENANT,
            &[arg("id", "userId", Kind::Text, "Its id").first()],
        ),
        verb(
            "extend",
            "Give a user more time or bytes",
            "vpnpanel.user.v1.UserService/ExtendUser",
            TENANT,
            &[
                WHO,
                arg("days", "days", Kind::Number, "Days"),
                arg("data", "dataBytes", Kind::Bytes, "10GB"),
            ],
        ),
        of_one(
            "revoke-credentials",
            "Make new keys; the old ones end",
            "vpnpanel.user.v1.UserService/RevokeUserCredentials",
        ),
        of_one(
            "devices",
            "List devices",
            "vpnpanel.user.v1.UserService/ListUserDevices",
        )
        .columns(&["id", "name", "keyIsUsers", "createTime"]),
        of_one(
            "periods",
            "List quota periods",
            "vpnpanel.user.v1.UserService/ListUserPeriods",
        )
        .columns(&["startTime", "endTime", "usedBytes", "dataLimitBytes"]),
    ],
};
