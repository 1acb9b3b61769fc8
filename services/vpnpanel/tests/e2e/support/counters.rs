//! What the kernel of a node counted, read with `nft` and not by any code of the product.

use std::ops::Add;

use serde_json::Value;
use vpnpanel_node_agent::testing::Namespace;

/// Bytes in both directions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// From the subscriber.
    pub(crate) up: u64,
    /// To the subscriber.
    pub(crate) down: u64,
}

impl Counted {
    /// Both together.
    pub(crate) fn sum(self) -> u64 {
        self.up + self.down
    }
}

impl Add for Counted {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            up: self.up + other.up,
            down: self.down + other.down,
        }
    }
}

impl std::iter::Sum for Counted {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What the node counted for a device: the counters that its address leads to.
pub(crate) fn counters(node: &Namespace, address: &str) -> Counted {
    let ruleset: Value =
        serde_json::from_str(&node.run("nft", &["-j", "list", "ruleset"])).expect("JSON of nft");
    let objects = ruleset["nftables"].as_array().expect("a list");
    let bytes = |map: &str| {
        let counter = objects
            .iter()
            .filter(|object| object["map"]["name"] == map)
            .flat_map(|object| {
                object["map"]["elem"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            })
            .find(|element| element[0] == address)
            .map(|element| element[1].clone())?;
        objects
            .iter()
            .find(|object| object["counter"]["name"] == counter)
            .and_then(|object| object["counter"]["bytes"].as_u64())
    };
    Counted {
        up: bytes("up4").unwrap_or(0),
        down: bytes("down4").unwrap_or(0),
    }
}
