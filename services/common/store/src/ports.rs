//! Ports of a node: each is one inbound's, or the agent's own. TCP and UDP are spaces apart. Unique
//! indexes say so too; here it is said in words, before anything is written.

use std::collections::BTreeMap;

use crate::error::{PortInUse, Result, StoreError};
use crate::inbounds::Inbound;
use crate::nodes::Node;

const TCP: &str = "TCP";
const UDP: &str = "UDP";

/// Refuses inbounds of a node that want a port which another has, or at which its agent is reached.
pub(crate) fn check(node: &Node, here: &[&Inbound]) -> Result<()> {
    let agent = control_port(&node.control_address);
    let mut taken: BTreeMap<(&'static str, u16), &Inbound> = BTreeMap::new();
    for &inbound in here {
        let ports = inbound.settings.ports();
        let wanted = [(TCP, ports.tcp), (UDP, ports.udp)];
        for (transport, port) in wanted
            .into_iter()
            .filter_map(|(transport, port)| Some((transport, port?)))
        {
            let by = taken.insert((transport, port), inbound);
            let is_agents = transport == TCP && agent == Some(port);
            if by.is_some() || is_agents {
                return Err(StoreError::PortInUse(Box::new(PortInUse {
                    transport,
                    port,
                    node: node.id,
                    node_name: node.name.clone(),
                    inbound: by.map(|by| (by.id, by.name.clone())),
                })));
            }
        }
    }
    Ok(())
}

/// Refuses a control address at whose port an inbound of the node listens.
pub(crate) fn check_agent(node: &Node, here: &[&Inbound]) -> Result<()> {
    let agent = control_port(&node.control_address);
    let holder = here.iter().find_map(|inbound| {
        let port = inbound
            .settings
            .ports()
            .tcp
            .filter(|it| agent == Some(*it))?;
        Some((port, inbound))
    });
    match holder {
        None => Ok(()),
        Some((port, inbound)) => Err(StoreError::PortInUse(Box::new(PortInUse {
            transport: TCP,
            port,
            node: node.id,
            node_name: node.name.clone(),
            inbound: Some((inbound.id, inbound.name.clone())),
        }))),
    }
}

/// The port of a control address; it is empty where the agent is not reached directly.
fn control_port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}
