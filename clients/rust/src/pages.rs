//! Lists, page by page. The control plane keeps no cursor: a page's token is all there is to it.

use std::future::Future;

use tonic::Status;
use vpnpanel_api::access::v1::{
    EndpointTemplate, Group, Inbound, ListEndpointTemplatesRequest, ListGroupsRequest,
    ListInboundsRequest,
};
use vpnpanel_api::node::v1::{ListNodesRequest, Node};
use vpnpanel_api::operation::v1::{
    ListOperationItemsRequest, ListOperationsRequest, Operation, OperationItem,
};
use vpnpanel_api::plan::v1::{ListPlansRequest, Plan};
use vpnpanel_api::scheduler::v1::{JobRun, ListJobRunsRequest};
use vpnpanel_api::tenant::v1::{ListTenantsRequest, Tenant};
use vpnpanel_api::user::v1::{ListUsersRequest, User};

use crate::client::Client;
use crate::error::Error;

/// A request whose answer comes in pages.
pub trait List: Clone + Send {
    /// What is listed.
    type Item: Send;

    /// Gets the page that starts at `token`, and the token of the next one, empty after the last.
    fn page(
        &self,
        client: &Client,
        token: &str,
    ) -> impl Future<Output = Result<(Vec<Self::Item>, String), Status>> + Send;
}

/// The pages of a list.
#[derive(Debug)]
pub struct Pages<L> {
    client: Client,
    request: L,
    /// `None` after the last page.
    next: Option<String>,
}

impl<L: List> Pages<L> {
    pub(crate) fn new(client: Client, request: L) -> Self {
        Self {
            client,
            request,
            next: Some(String::new()),
        }
    }

    /// The next page; `None` after the last. After an error the same page is asked for again.
    ///
    /// # Errors
    /// What the call for the page fails with.
    pub async fn next_page(&mut self) -> Result<Option<Vec<L::Item>>, Error> {
        let Some(token) = &self.next else {
            return Ok(None);
        };
        let (items, next) = self.request.page(&self.client, token).await?;
        self.next = Some(next).filter(|token| !token.is_empty());
        Ok(Some(items))
    }

    /// Everything that is left, in memory at once.
    ///
    /// # Errors
    /// What the call for any page fails with.
    pub async fn all(mut self) -> Result<Vec<L::Item>, Error> {
        let mut all = Vec::new();
        while let Some(page) = self.next_page().await? {
            all.extend(page);
        }
        Ok(all)
    }
}

macro_rules! lists {
    ($($request:ty => $item:ty: $stub:ident.$method:ident, $field:ident;)*) => {
        $(
            impl List for $request {
                type Item = $item;

                async fn page(
                    &self,
                    client: &Client,
                    token: &str,
                ) -> Result<(Vec<Self::Item>, String), Status> {
                    let mut request = self.clone();
                    request.page_token = token.to_owned();
                    let page = client.$stub().$method(request).await?.into_inner();
                    Ok((page.$field, page.next_page_token))
                }
            }
        )*
    };
}

lists! {
    ListTenantsRequest => Tenant: tenants.list_tenants, tenants;
    ListUsersRequest => User: users.list_users, users;
    ListPlansRequest => Plan: plans.list_plans, plans;
    ListOperationsRequest => Operation: operations.list_operations, operations;
    ListOperationItemsRequest => OperationItem: operations.list_operation_items, items;
    ListGroupsRequest => Group: groups.list_groups, groups;
    ListInboundsRequest => Inbound: inbounds.list_inbounds, inbounds;
    ListEndpointTemplatesRequest => EndpointTemplate:
        endpoint_templates.list_endpoint_templates, endpoint_templates;
    ListNodesRequest => Node: nodes.list_nodes, nodes;
    ListJobRunsRequest => JobRun: scheduler.list_job_runs, runs;
}
