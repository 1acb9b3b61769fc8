//! `vpnctl node` and `job`: what the platform runs on.

use super::{Arg, Kind, Noun, Resource, Scope, arg, verb};

const NODE_NAME: Arg = arg("node", "nodeId", Kind::Of(Resource::Node), "Name or id").first();

pub(crate) const NODE: Noun = Noun {
    name: "node",
    about: "Edge hosts; shared ones, or with --tenant those of a tenant",
    verbs: &[
        verb(
            "list",
            "List nodes",
            "vpnpanel.node.v1.NodeService/ListNodes",
            Scope::Either,
            &[],
        )
        .columns(&[
            "name",
            "state",
            "region",
            "address",
            "agentVersion",
            "seenTime",
        ]),
        verb(
            "add",
            "Make a node; `node join` then tells how its host joins",
            "vpnpanel.node.v1.NodeService/CreateNode",
            Scope::Either,
            &[
                arg("name", "node.name", Kind::Text, "Its name").first(),
                arg("region", "node.region", Kind::Text, "eu-central"),
                arg(
                    "address",
                    "node.address",
                    Kind::Text,
                    "Where subscribers reach it",
                ),
            ],
        ),
        verb(
            "join",
            "Make a join token; tells the command for the host",
            "vpnpanel.node.v1.NodeService/CreateJoinToken",
            Scope::Either,
            &[NODE_NAME],
        )
        .secrets(),
        verb(
            "show",
            "Show a node",
            "vpnpanel.node.v1.NodeService/GetNode",
            Scope::Either,
            &[NODE_NAME],
        ),
        verb(
            "drain",
            "Send newcomers elsewhere",
            "vpnpanel.node.v1.NodeService/DrainNode",
            Scope::Either,
            &[NODE_NAME],
        ),
        verb(
            "undrain",
            "End that",
            "vpnpanel.node.v1.NodeService/UndrainNode",
            Scope::Either,
            &[NODE_NAME],
        ),
        verb(
            "sync",
            "Desired and applied state",
            "vpnpanel.node.v1.NodeService/GetNodeSync",
            Scope::Either,
            &[NODE_NAME],
        ),
        verb(
            "delete",
            "Delete a node",
            "vpnpanel.node.v1.NodeService/DeleteNode",
            Scope::Either,
            &[NODE_NAME],
        ),
    ],
};

pub(crate) const JOB: Noun = Noun {
    name: "job",
    about: "Periodic jobs of the scheduler",
    verbs: &[verb(
        "list",
        "List jobs",
        "vpnpanel.scheduler.v1.SchedulerService/ListJobs",
        Scope::Platform,
        &[],
    )
    .columns(&["name"])],
};
