//! A node on the control plane's own host, so that the first tunnel needs no second machine: made
//! in the store at the first start, and run as `vpnpanel-agent` in a process of its own, like any
//! other node's.

mod agent;
mod host;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vpnpanel_control_api::Vault;
use vpnpanel_domain::{Multiplier, NodeId};
use vpnpanel_pki::JoinToken;
use vpnpanel_runtime::Service;
use vpnpanel_runtime::settings::{HttpEndpoint, Secret};
use vpnpanel_store::{Labels, NewJoinToken, NewNode, Page, Store, StoreError, fresh_id};

use crate::installation::Installation;

/// The node's name.
const NAME: &str = "local";
/// How long its join token lives; it is spent within seconds.
const TOKEN_LIFE_MS: i64 = 15 * 60 * 1000;

/// Settings of the node on this host.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct LocalNodeSettings {
    /// Run a node on this host: auto does so where root, TUN and the WireGuard tools are there.
    #[arg(
        long,
        env = "VPNPANEL_LOCAL_NODE",
        default_value = "auto",
        value_name = "WHEN"
    )]
    local_node: When,

    /// Where devices reach the node on this host; the address this host has towards the internet
    /// when unset. It can be changed later, as any node's.
    #[arg(long, env = "VPNPANEL_LOCAL_NODE_ADDRESS", value_name = "HOST")]
    local_node_address: Option<String>,

    /// The agent's program; beside this one, or on the PATH, when unset.
    #[arg(long, env = "VPNPANEL_AGENT_PROGRAM", value_name = "FILE")]
    agent_program: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    True,
    False,
}

/// Why there is no node on this host although one was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalNodeError {
    #[error("VPNPANEL_LOCAL_NODE: 'true' is not possible here: {0}")]
    Impossible(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("agent: {0}")]
    Process(#[from] std::io::Error),
    #[error(transparent)]
    Pki(#[from] vpnpanel_pki::Error),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum LocalNode {
    /// Runs with the other services.
    Runs(Box<Service>),
    /// Does not run; the text says why, and what to do.
    Hint(String),
}

/// Makes the node when this host never had one, and the service that runs its agent.
pub(crate) async fn build(
    settings: &LocalNodeSettings,
    installation: &Installation,
    vault: &Vault,
    enrollment_url: &HttpEndpoint,
    ca_pin: &str,
) -> Result<LocalNode, LocalNodeError> {
    if settings.local_node == When::False {
        return Ok(LocalNode::Hint("off (VPNPANEL_LOCAL_NODE)".to_owned()));
    }
    let program = match host::agent_program(settings.agent_program.clone()) {
        Ok(program) => host::capable().map(|()| program),
        Err(missing) => Err(missing),
    };
    let program = match program {
        Ok(program) => program,
        Err(missing) if settings.local_node == When::True => {
            return Err(LocalNodeError::Impossible(missing));
        }
        Err(missing) => {
            return Ok(LocalNode::Hint(format!(
                "none: {missing}. Add a node on another host: README, \"Add a node\""
            )));
        }
    };
    let folder = installation.data_dir.join("agent");
    let mut enrolment = None;
    if !agent::is_enrolled(&folder) {
        enrolment = Some(Enrolment {
            store: installation.store.clone(),
            node: node(settings, installation, vault).await?,
            url: enrollment_url.to_string(),
            ca_pin: ca_pin.to_owned(),
        });
    }
    let environment = vec![
        ("VPNPANEL_AGENT_DATA_DIR", folder.display().to_string()),
        (
            "VPNPANEL_TRUST_DOMAIN",
            installation.trust_domain.to_string(),
        ),
    ];
    let agent = agent::Agent {
        program,
        arguments: vec!["run"],
        folder,
        environment,
    };
    let mut service = Service::new("local-node");
    service.task("agent", move |stop| agent.keep_running(enrolment, stop));
    Ok(LocalNode::Runs(Box::new(service)))
}

/// Lets the agent become the node: a token for each start, because one may die with it.
#[derive(Debug)]
struct Enrolment {
    store: Store,
    node: NodeId,
    url: String,
    ca_pin: String,
}

impl Enrolment {
    /// What the agent needs to know, as an install command would say it.
    async fn environment(&self) -> Result<[(&'static str, Secret); 3], LocalNodeError> {
        let token = JoinToken::generate()?;
        let new = NewJoinToken {
            hash: token.hash().to_vec(),
            node_id: self.node,
            expires_at_ms: self.store.now_ms() + TOKEN_LIFE_MS,
        };
        self.store.create_join_token(None, new).await?;
        Ok([
            ("VPNPANEL_ENROLLMENT_URL", Secret::new(self.url.as_str())),
            ("VPNPANEL_CA_PIN", Secret::new(self.ca_pin.as_str())),
            ("VPNPANEL_JOIN_TOKEN", Secret::new(token.text().as_str())),
        ])
    }
}

/// The node of this host: found by its name after a start that did not come to enrolment.
async fn node(
    settings: &LocalNodeSettings,
    installation: &Installation,
    vault: &Vault,
) -> Result<NodeId, LocalNodeError> {
    let new = NewNode {
        id: fresh_id(),
        tenant_id: None,
        name: NAME.to_owned(),
        region: String::new(),
        address: settings
            .local_node_address
            .clone()
            .unwrap_or_else(host::address),
        labels: Labels::new(),
        multiplier: Multiplier::ONE,
        disabled: false,
    };
    match installation.store.create_node(new, vault, None).await {
        Ok(node) => {
            tracing::info!(node_id = %node.id, address = node.address, "local node made");
            Ok(node.id)
        }
        Err(StoreError::AlreadyExists { .. }) => existing(installation).await,
        Err(error) => Err(error.into()),
    }
}

/// The name is taken, so it is there, on some page.
async fn existing(installation: &Installation) -> Result<NodeId, LocalNodeError> {
    let mut page = Page::first(100);
    loop {
        let nodes = installation.store.nodes(None, page).await?;
        if let Some(node) = nodes
            .iter()
            .find(|node| node.name.eq_ignore_ascii_case(NAME))
        {
            return Ok(node.id);
        }
        let Some(last) = nodes.last() else {
            return Err(StoreError::NotFound("node").into());
        };
        page = Page::after(100, last.id);
    }
}
