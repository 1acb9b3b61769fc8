//! The client: a connection, a session, and a stub for each service.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use tonic::transport::Channel;
use vpnpanel_api::access::v1::endpoint_template_service_client::EndpointTemplateServiceClient;
use vpnpanel_api::access::v1::group_service_client::GroupServiceClient;
use vpnpanel_api::access::v1::inbound_service_client::InboundServiceClient;
use vpnpanel_api::auth::v1::auth_service_client::AuthServiceClient;
use vpnpanel_api::auth::v1::{ChangePasswordRequest, LoginRequest, LogoutRequest};
use vpnpanel_api::node::v1::node_service_client::NodeServiceClient;
use vpnpanel_api::operation::v1::operation_service_client::OperationServiceClient;
use vpnpanel_api::plan::v1::plan_service_client::PlanServiceClient;
use vpnpanel_api::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use vpnpanel_api::system::v1::system_service_client::SystemServiceClient;
use vpnpanel_api::tenant::v1::tenant_service_client::TenantServiceClient;
use vpnpanel_api::usage::v1::usage_service_client::UsageServiceClient;
use vpnpanel_api::user::v1::user_service_client::UserServiceClient;

use crate::authorized::Authorized;
use crate::connect::Builder;
use crate::error::Error;
use crate::pages::{List, Pages};
use crate::session::Session;

/// A connection to a control plane. Clones share the connection and the session.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    session: Arc<Session>,
}

/// What a sign-in says beside the tokens, which stay inside the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedIn {
    /// Nothing else is permitted before [`Client::change_password`].
    pub password_change_required: bool,
}

macro_rules! stubs {
    ($($(#[$doc:meta])* $name:ident => $stub:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> $stub<Authorized> {
                    $stub::new(self.authorized())
                }
            )*
        }
    };
}

stubs! {
    /// The signed-in account.
    auth => AuthServiceClient;
    /// Tenants.
    tenants => TenantServiceClient;
    /// Users: the subscribers of the VPN.
    users => UserServiceClient;
    /// Plans that users are given.
    plans => PlanServiceClient;
    /// Calls that go on after they have answered.
    operations => OperationServiceClient;
    /// Groups of inbounds.
    groups => GroupServiceClient;
    /// Inbounds: where subscribers connect.
    inbounds => InboundServiceClient;
    /// How inbounds are presented to subscribers.
    endpoint_templates => EndpointTemplateServiceClient;
    /// Nodes.
    nodes => NodeServiceClient;
    /// Usage series.
    usage => UsageServiceClient;
    /// The installation.
    system => SystemServiceClient;
    /// Periodic jobs. The scheduler has an address of its own outside of `vpnpanel up`.
    scheduler => SchedulerServiceClient;
}

impl Client {
    /// A client of the control plane at `address`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// When `address` is none.
    pub fn builder(address: &str) -> Result<Builder, Error> {
        Builder::new(address)
    }

    pub(crate) fn new(channel: Channel) -> Self {
        let session = Arc::new(Session::new(channel.clone()));
        Self { channel, session }
    }

    /// The channel that the stubs call through, for stubs that have no method here.
    pub fn authorized(&self) -> Authorized {
        Authorized::new(self.channel.clone(), Arc::clone(&self.session))
    }

    /// Signs in. From then on each call carries an access token, which is renewed in time.
    ///
    /// # Errors
    /// `SIGN_IN_REFUSED` when address or password are wrong.
    pub async fn sign_in(
        &self,
        email: &str,
        password: impl Into<SecretString>,
    ) -> Result<SignedIn, Error> {
        let password: SecretString = password.into();
        let request = LoginRequest {
            email: email.to_owned(),
            password: password.expose_secret().to_owned(),
            ..LoginRequest::default()
        };
        let mut auth = AuthServiceClient::new(self.channel.clone());
        let login = auth.login(request).await?.into_inner();
        self.session
            .set_signed_in(&login.access_token, login.refresh_token, login.expires_in)
            .await?;
        Ok(SignedIn {
            password_change_required: login.password_change_required,
        })
    }

    /// Changes the password of the signed-in account; this session goes on, its others end.
    ///
    /// # Errors
    /// When the current password is wrong, or the new one too weak.
    pub async fn change_password(
        &self,
        current: impl Into<SecretString>,
        new: impl Into<SecretString>,
    ) -> Result<(), Error> {
        let (current, new): (SecretString, SecretString) = (current.into(), new.into());
        let request = ChangePasswordRequest {
            current_password: current.expose_secret().to_owned(),
            new_password: new.expose_secret().to_owned(),
        };
        let changed = self.auth().change_password(request).await?.into_inner();
        self.session
            .set_signed_in(
                &changed.access_token,
                changed.refresh_token,
                changed.expires_in,
            )
            .await
    }

    /// Puts a token that was got elsewhere, such as an API token, on each call.
    ///
    /// # Errors
    /// When it cannot be a token.
    pub async fn use_token(&self, token: impl Into<SecretString>) -> Result<(), Error> {
        let token: SecretString = token.into();
        self.session.set_token(token.expose_secret()).await
    }

    /// Ends the session, here and at the control plane.
    ///
    /// # Errors
    /// When the control plane could not be told; the tokens are forgotten all the same.
    pub async fn sign_out(&self) -> Result<(), Error> {
        let told = self.auth().logout(LogoutRequest {}).await;
        self.session.clear().await;
        told.map(drop).map_err(Error::from)
    }

    /// The pages of a list, from the first.
    pub fn pages<L: List>(&self, request: L) -> Pages<L> {
        Pages::new(self.clone(), request)
    }
}
