//! `vpnctl tenant`.

use super::{Kind, Noun, Resource, Scope, arg, verb};

pub(crate) const TENANT: Noun = Noun {
    name: "tenant",
    about: "Organisations that own users",
    verbs: &[
        verb(
            "list",
            "List tenants",
            "vpnpanel.tenant.v1.TenantService/ListTenants",
            Scope::Platform,
            &[],
        )
        .columns(&["id", "name", "timeZone", "suspendTime", "createTime"]),
        verb(
            "show",
            "Show a tenant",
            "vpnpanel.tenant.v1.TenantService/GetTenant",
            Scope::Platform,
            &[arg(
                "tenant-name",
                "tenantId",
                Kind::Of(Resource::Tenant),
                "Id or name",
            )
            .first()],
        ),
        verb(
            "create",
            "Create a tenant",
            "vpnpanel.tenant.v1.TenantService/CreateTenant",
            Scope::Platform,
            &[
                arg("name", "tenant.name", Kind::Text, "Its name").first(),
                arg("time-zone", "tenant.timeZone", Kind::Text, "Europe/Berlin"),
            ],
        ),
        verb(
            "suspend",
            "Suspend a tenant",
            "vpnpanel.tenant.v1.TenantService/SuspendTenant",
            Scope::Platform,
            &[arg(
                "tenant-name",
                "tenantId",
                Kind::Of(Resource::Tenant),
                "Id or name",
            )
            .first()],
        ),
        verb(
            "resume",
            "End a suspension",
            "vpnpanel.tenant.v1.TenantService/ResumeTenant",
            Scope::Platform,
            &[arg(
                "tenant-name",
                "tenantId",
                Kind::Of(Resource::Tenant),
                "Id or name",
            )
            .first()],
        ),
        verb(
            "members",
            "List who may sign in to the tenant",
            "vpnpanel.tenant.v1.TenantService/ListMembers",
            Scope::Tenant("tenantId"),
            &[],
        )
        .columns(&["accountId", "email", "role", "disabled"]),
    ],
};
