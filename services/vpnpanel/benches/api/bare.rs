//! Servers that do nothing but answer: what the transport alone costs.

use std::convert::Infallible;

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tonic::async_trait;
use vpnpanel_api::user::v1 as user;
use vpnpanel_api::user::v1::user_service_server::{UserService, UserServiceServer};

use crate::server::BARE;

/// Serves until it is killed.
#[tokio::main]
pub(crate) async fn serve(kind: &str, body: &str) -> Result<()> {
    let body = std::fs::read(body)?;
    match kind {
        "rest" => rest(Bytes::from(body)).await,
        "grpc" => {
            let id = String::from_utf8(body)?;
            tonic::transport::Server::builder()
                .add_service(UserServiceServer::new(Bare { id }))
                .serve(BARE.parse()?)
                .await?;
            Ok(())
        }
        other => bail!("no bare server {other}"),
    }
}

async fn rest(body: Bytes) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(BARE).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
            let body = body.clone();
            async move {
                let response = Response::builder().header("content-type", "application/json");
                Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
            }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer),
        );
    }
}

/// Knows one user.
struct Bare {
    id: String,
}

macro_rules! bare_user_service {
    ($($method:ident($request:ident) -> $response:ident),* $(,)?) => {
        #[async_trait]
        impl UserService for Bare {
            async fn get_user(
                &self,
                request: tonic::Request<user::GetUserRequest>,
            ) -> Result<tonic::Response<user::GetUserResponse>, tonic::Status> {
                let user = user::User {
                    id: self.id.clone(),
                    tenant_id: request.into_inner().tenant_id,
                    username: "user000000".to_owned(),
                    status: user::UserStatus::Active.into(),
                    group_ids: vec![self.id.clone()],
                    data_limit_bytes: 20_000_000_000,
                    period: Some(user::Period {
                        id: self.id.clone(),
                        ..Default::default()
                    }),
                    etag: "0123456789abcdef".to_owned(),
                    ..Default::default()
                };
                Ok(tonic::Response::new(user::GetUserResponse { user: Some(user) }))
            }
            $(async fn $method(
                &self,
                _: tonic::Request<user::$request>,
            ) -> Result<tonic::Response<user::$response>, tonic::Status> {
                Err(tonic::Status::unimplemented("not measured"))
            })*
        }
    };
}

bare_user_service! {
    create_user(CreateUserRequest) -> CreateUserResponse,
    batch_create_users(BatchCreateUsersRequest) -> BatchCreateUsersResponse,
    list_users(ListUsersRequest) -> ListUsersResponse,
    extend_user(ExtendUserRequest) -> ExtendUserResponse,
    undelete_user(UndeleteUserRequest) -> UndeleteUserResponse,
    change_user_plan(ChangeUserPlanRequest) -> ChangeUserPlanResponse,
    create_user_device(CreateUserDeviceRequest) -> CreateUserDeviceResponse,
    list_user_devices(ListUserDevicesRequest) -> ListUserDevicesResponse,
    delete_user_device(DeleteUserDeviceRequest) -> DeleteUserDeviceResponse,
    update_user(UpdateUserRequest) -> UpdateUserResponse,
    delete_user(DeleteUserRequest) -> DeleteUserResponse,
    disable_user(DisableUserRequest) -> DisableUserResponse,
    enable_user(EnableUserRequest) -> EnableUserResponse,
    reset_user_usage(ResetUserUsageRequest) -> ResetUserUsageResponse,
    revoke_user_credentials(RevokeUserCredentialsRequest) -> RevokeUserCredentialsResponse,
    rotate_user_subscription(RotateUserSubscriptionRequest) -> RotateUserSubscriptionResponse,
    list_user_periods(ListUserPeriodsRequest) -> ListUserPeriodsResponse,
    list_user_connections(ListUserConnectionsRequest) -> ListUserConnectionsResponse,
}
