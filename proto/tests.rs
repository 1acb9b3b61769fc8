//! What the generated parts of the contract promise.

use crate::{
    Access, Call, Guard, Guarded, METHODS, Validate, auth, method, pool, system,
    user::v1::{CreateUserRequest, GetUserRequest, UpdateUserRequest, User},
};

#[test]
fn every_method_of_the_descriptor_is_in_the_table() {
    let declared: usize = pool()
        .services()
        .filter(|s| s.full_name().starts_with("vpnpanel."))
        .map(|s| s.methods().len())
        .sum();
    assert_eq!(METHODS.len(), declared);
    for each in METHODS {
        assert_eq!(method(each.path).map(|m| m.path), Some(each.path));
    }
    assert!(method("/vpnpanel.user.v1.UserService/Nothing").is_none());
}

#[test]
fn the_pool_keeps_the_options() {
    let get = pool()
        .get_service_by_name("vpnpanel.user.v1.UserService")
        .and_then(|s| s.methods().find(|m| m.name() == "GetUser"))
        .unwrap();
    let http = pool().get_extension_by_name("google.api.http").unwrap();
    assert!(get.options().has_extension(&http));
}

#[test]
fn every_pattern_of_the_contract_compiles() {
    let rules = pool().get_extension_by_name("buf.validate.field").unwrap();
    for message in pool()
        .all_messages()
        .filter(|m| m.full_name().starts_with("vpnpanel."))
    {
        for field in message.fields() {
            let options = field.options();
            let text = options
                .get_extension(&rules)
                .as_message()
                .and_then(|r| r.get_field_by_name("string").map(|v| v.into_owned()))
                .and_then(|v| {
                    let text = v.as_message().cloned()?;
                    let pattern = text.get_field_by_name("pattern")?.as_str()?.to_owned();
                    Some(pattern)
                })
                .unwrap_or_default();
            assert!(
                regex_lite::Regex::new(&text).is_ok(),
                "{}: {text}",
                field.full_name()
            );
        }
    }
}

#[test]
fn violations_name_the_field_and_the_rule() {
    let request = CreateUserRequest {
        tenant_id: "nonsense".into(),
        user: Some(User {
            username: "two words".into(),
            group_ids: vec!["x".into()],
            data_limit_bytes: u64::MAX,
            ..Default::default()
        }),
        ..Default::default()
    };
    let violations = request.validate().unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "tenant_id",
            "user.username",
            "user.group_ids[0]",
            "user.data_limit_bytes"
        ]
    );
}

#[test]
fn no_text_holds_what_no_database_keeps() {
    let request = auth::v1::LoginRequest {
        email: "a@b\0".into(),
        password: "\0".into(),
        ..Default::default()
    };
    let violations = request.validate().unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["email", "password"]);
}

#[test]
fn an_absent_required_message_is_a_violation() {
    let violations = UpdateUserRequest::default().validate().unwrap_err();
    assert_eq!(violations[0].field, "user");
}

#[test]
fn secrets_do_not_show_in_debug() {
    let request = auth::v1::LoginRequest {
        email: "a@b".into(),
        password: "hunter2".into(),
        ..Default::default()
    };
    let text = format!("{request:?}");
    assert!(text.contains("a@b") && text.contains("[redacted]") && !text.contains("hunter2"));
}

/// Refuses everything and remembers what it was asked.
struct Refuse(std::sync::Mutex<Vec<(Access, Option<String>)>>);

impl Guard for Refuse {
    async fn check(&self, call: Call<'_>) -> Result<(), tonic::Status> {
        let asked = (call.method.access, call.tenant.map(str::to_owned));
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(asked);
        Err(tonic::Status::permission_denied("no"))
    }
}

struct Unreachable;

#[async_trait::async_trait]
impl system::v1::system_service_server::SystemService for Unreachable {
    async fn get_system_info(
        &self,
        _: tonic::Request<system::v1::GetSystemInfoRequest>,
    ) -> Result<tonic::Response<system::v1::GetSystemInfoResponse>, tonic::Status> {
        panic!("the guard refused")
    }

    async fn get_dashboard(
        &self,
        _: tonic::Request<system::v1::GetDashboardRequest>,
    ) -> Result<tonic::Response<system::v1::GetDashboardResponse>, tonic::Status> {
        panic!("the guard refused")
    }

    async fn get_tenant_dashboard(
        &self,
        _: tonic::Request<system::v1::GetTenantDashboardRequest>,
    ) -> Result<tonic::Response<system::v1::GetTenantDashboardResponse>, tonic::Status> {
        panic!("the guard refused")
    }
}

#[tokio::test]
async fn a_refused_call_never_reaches_the_handler() {
    use system::v1::system_service_server::SystemService;
    let guarded = Guarded::new(Unreachable, std::sync::Arc::new(Refuse(Default::default())));
    let status = guarded
        .get_system_info(tonic::Request::new(Default::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
}

#[test]
fn an_unset_tenant_field_means_the_platform() {
    let declared = method("/vpnpanel.user.v1.UserService/GetUser")
        .unwrap()
        .access;
    assert_eq!(
        declared,
        Access::Permission {
            name: "user.read",
            tenant_field: Some("tenant_id")
        }
    );
    assert!(GetUserRequest::default().validate().is_err());
}
