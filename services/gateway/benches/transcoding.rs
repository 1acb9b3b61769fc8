//! What REST costs beside gRPC when both are called in process, without a socket: the transcoder
//! alone. Prints a section of docs/benchmarks.md; `scripts/bench transcoding` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people: what goes wrong ends it, what was measured is printed"
)]

use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use vpnpanel_api::user::v1::user_service_client::UserServiceClient;
use vpnpanel_api::user::v1::user_service_server::{UserService, UserServiceServer};
use vpnpanel_api::user::v1::*;
use vpnpanel_gateway::{Limits, Transcoder, Upstream, Upstreams};

const TENANT: &str = "019abc00-0000-7000-8000-000000000001";
const USER: &str = "019abc00-0000-7000-8000-000000000002";
/// Each figure is the best of several rounds: the machine does other things as well.
const ROUNDS: usize = 7;

const MONTHLY: UsageReset = UsageReset {
    strategy: ResetStrategy::Monthly as i32,
    rolling_days: 0,
};

/// Answers without work of its own.
struct Users;

fn user(n: u64) -> User {
    let time = |seconds| {
        Some(prost_types::Timestamp {
            seconds,
            nanos: 123_456_000,
        })
    };
    User {
        id: USER.to_owned(),
        tenant_id: TENANT.to_owned(),
        username: format!("subscriber-{n}"),
        status: UserStatus::Active.into(),
        note: "paid until spring".to_owned(),
        group_ids: vec![TENANT.to_owned(), USER.to_owned()],
        data_limit_bytes: 20_000_000_000,
        used_bytes: 1_234_567_890 + n,
        period: Some(Period {
            id: USER.to_owned(),
            start_time: time(1_795_000_000),
            end_time: time(1_797_000_000),
            up_bytes: 234_567_890,
            down_bytes: 1_000_000_000 + n,
            usage_reset: Some(MONTHLY),
            data_limit_bytes: 20_000_000_000,
            used_bytes: 1_234_567_890 + n,
        }),
        expire_time: time(1_800_000_000),
        online_time: time(1_795_474_097),
        create_time: time(1_790_000_000),
        update_time: time(1_795_000_000),
        etag: "a1b2c3d4".to_owned(),
        speed_limit_up_bps: 0,
        speed_limit_down_bps: 0,
        usage_reset: Some(MONTHLY),
        ..User::default()
    }
}

macro_rules! not_measured {
    ($($method:ident: $request:ty => $response:ty;)*) => {
        #[tonic::async_trait]
        impl UserService for Users {
            async fn get_user(
                &self,
                _: Request<GetUserRequest>,
            ) -> Result<Response<GetUserResponse>, Status> {
                Ok(Response::new(GetUserResponse { user: Some(user(0)) }))
            }

            async fn create_user(
                &self,
                request: Request<CreateUserRequest>,
            ) -> Result<Response<CreateUserResponse>, Status> {
                Ok(Response::new(CreateUserResponse { user: request.into_inner().user }))
            }

            async fn list_users(
                &self,
                request: Request<ListUsersRequest>,
            ) -> Result<Response<ListUsersResponse>, Status> {
                let size = u64::try_from(request.get_ref().page_size).unwrap_or_default();
                Ok(Response::new(ListUsersResponse {
                    users: (0..size).map(user).collect(),
                    ..Default::default()
                }))
            }

            $(
                async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented("not measured"))
                }
            )*
        }
    };
}

not_measured! {
    update_user: UpdateUserRequest => UpdateUserResponse;
    delete_user: DeleteUserRequest => DeleteUserResponse;
    batch_create_users: BatchCreateUsersRequest => BatchCreateUsersResponse;
    extend_user: ExtendUserRequest => ExtendUserResponse;
    undelete_user: UndeleteUserRequest => UndeleteUserResponse;
    change_user_plan: ChangeUserPlanRequest => ChangeUserPlanResponse;
    create_user_device: CreateUserDeviceRequest => CreateUserDeviceResponse;
    list_user_devices: ListUserDevicesRequest => ListUserDevicesResponse;
    delete_user_device: DeleteUserDeviceRequest => DeleteUserDeviceResponse;
    disable_user: DisableUserRequest => DisableUserResponse;
    enable_user: EnableUserRequest => EnableUserResponse;
    reset_user_usage: ResetUserUsageRequest => ResetUserUsageResponse;
    list_user_periods: ListUserPeriodsRequest => ListUserPeriodsResponse;
    revoke_user_credentials: RevokeUserCredentialsRequest => RevokeUserCredentialsResponse;
    rotate_user_subscription: RotateUserSubscriptionRequest => RotateUserSubscriptionResponse;
    list_user_connections: ListUserConnectionsRequest => ListUserConnectionsResponse;
}

fn main() {
    // `cargo test --benches` only checks that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let routes = Routes::new(UserServiceServer::new(Users)).prepare();
    let stub = UserServiceClient::new(routes.clone());
    let upstreams = Upstreams::new(Upstream::new(routes));
    let stop = CancellationToken::new();
    let rest = Transcoder::new(vpnpanel_api::pool(), &upstreams, Limits::default(), stop).unwrap();

    println!("## REST beside gRPC, in process\n");
    println!("Time of one call without a socket: the tonic stub, and the same by REST.\n");
    println!("| call | gRPC | REST | REST − gRPC | JSON |");
    println!("| --- | ---: | ---: | ---: | ---: |");

    let base = format!("/v1/tenants/{TENANT}/users");
    let get = GetUserRequest {
        tenant_id: TENANT.to_owned(),
        user_id: USER.to_owned(),
    };
    let grpc = best(20_000, async || {
        let mut stub = stub.clone();
        stub.get_user(get.clone()).await.unwrap();
    });
    row(
        "get a user",
        grpc.await,
        &rest,
        20_000,
        "GET",
        &format!("{base}/{USER}"),
        "",
    )
    .await;

    for size in [50, 1000] {
        let calls = 100_000 / (size as usize + 10);
        let list = ListUsersRequest {
            tenant_id: TENANT.to_owned(),
            page_size: size,
            ..Default::default()
        };
        let grpc = best(calls, async || {
            let mut stub = stub.clone();
            stub.list_users(list.clone()).await.unwrap();
        });
        let path = format!("{base}?pageSize={size}");
        row(
            &format!("list {size} users"),
            grpc.await,
            &rest,
            calls,
            "GET",
            &path,
            "",
        )
        .await;
    }

    let create = CreateUserRequest {
        tenant_id: TENANT.to_owned(),
        user: Some(User {
            username: "ada".to_owned(),
            data_limit_bytes: 7,
            ..Default::default()
        }),
        request_id: USER.to_owned(),
    };
    let grpc = best(20_000, async || {
        let mut stub = stub.clone();
        stub.create_user(create.clone()).await.unwrap();
    });
    let path = format!("{base}?requestId={USER}");
    let body = r#"{"username":"ada","dataLimitBytes":"7"}"#;
    row(
        "create a user",
        grpc.await,
        &rest,
        20_000,
        "POST",
        &path,
        body,
    )
    .await;
    println!();
}

async fn row(
    name: &str,
    grpc: Duration,
    rest: &Transcoder,
    calls: usize,
    method: &str,
    path: &str,
    body: &'static str,
) {
    let request = || {
        let request = http::Request::builder().method(method).uri(path);
        request.body(Body::from(body)).unwrap()
    };
    let answer = rest.handle(request()).await;
    assert!(answer.status().is_success());
    let size = answer.into_body().collect().await.unwrap().to_bytes().len();
    let rest = best(calls, async || {
        let answer = rest.handle(request()).await;
        answer.into_body().collect().await.unwrap();
    })
    .await;
    let micros = |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
    let more = rest.saturating_sub(grpc);
    println!(
        "| {name} | {} | {} | {} | {size} B |",
        micros(grpc),
        micros(rest),
        micros(more)
    );
}

/// Time of one call, in the best of several rounds.
async fn best(calls: usize, mut call: impl AsyncFnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..calls / ROUNDS {
            call().await;
        }
        let calls = u32::try_from(calls / ROUNDS).unwrap_or(u32::MAX);
        best = best.min(started.elapsed() / calls.max(1));
    }
    best
}
