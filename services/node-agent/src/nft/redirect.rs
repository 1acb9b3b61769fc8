//! Sends packets of held-back users from the devices they come in on through a device of ours,
//! where classes hold them back, and from there on as if nothing had been. A table of its own: what
//! devices hand over is not the network layer's.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;

use nix::errno::Errno;

use super::mirror;
use super::nft;
use super::socket::Socket;
use super::wire::{Batch, Family, Kind};
use crate::Error;

/// An object that says that the table is ours and is there.
const MARK: &str = "present";

/// The table, on a set of devices that stays the same.
#[derive(Debug)]
pub(crate) struct Redirect {
    table: String,
    socket: Socket,
    paces: HashMap<IpAddr, u32>,
}

impl Redirect {
    /// Makes the table anew; packets pass by it until addresses are named.
    pub(crate) fn open<'a>(
        table: &str,
        through: &str,
        devices: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        nft(&script(table, through, devices))?;
        Ok(Self {
            table: table.to_owned(),
            socket: Socket::open()?,
            paces: HashMap::new(),
        })
    }

    /// Removes a table; one that does not exist is no error.
    pub(crate) fn remove(table: &str) -> Result<(), Error> {
        nft(&format!(
            "add table netdev {table}\ndelete table netdev {table}\n"
        ))
    }

    /// Whether nobody has removed it.
    pub(crate) fn exists(&mut self) -> Result<bool, Error> {
        self.socket
            .has_object(Family::Netdev, &self.table, Kind::Counter, MARK)
    }

    /// The classes that packets from addresses are put into.
    pub(crate) fn paces(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.paces.iter().map(|(address, class)| (*address, *class))
    }

    /// Puts packets from addresses into classes, or lets them pass by.
    pub(crate) fn pace(&mut self, changes: &[(IpAddr, Option<u32>)]) -> Result<(), Error> {
        for slice in changes.chunks(2000) {
            let mut batch = Batch::of(Family::Netdev, &self.table);
            for (address, class) in slice {
                let present = self.paces.get(address).copied();
                mirror::pace(&mut batch, *address, (present, *class));
            }
            self.socket.commit(batch).map_err(|error| match error {
                Error::Netlink {
                    source: Errno::ENOENT,
                    ..
                } => Error::TableReplaced(self.table.clone()),
                error => error,
            })?;
            for (address, class) in slice {
                match class {
                    Some(class) => self.paces.insert(*address, *class),
                    None => self.paces.remove(address),
                };
            }
        }
        Ok(())
    }
}

fn script<'a>(table: &str, through: &str, devices: impl Iterator<Item = &'a str>) -> String {
    let mut script = format!(
        "add table netdev {table}\ndelete table netdev {table}\nadd table netdev {table}\n\
         add counter netdev {table} {MARK}\n\
         add map netdev {table} pace4 {{ type ipv4_addr : classid; }}\n\
         add map netdev {table} pace6 {{ type ipv6_addr : classid; }}\n"
    );
    for (number, device) in devices.enumerate() {
        // Writing to a string does not fail.
        let _ = write!(
            script,
            "add chain netdev {table} in{number} \
             {{ type filter hook ingress device \"{device}\" priority 0; policy accept; }}\n\
             add rule netdev {table} in{number} \
             meta priority set ip saddr map @pace4 fwd to \"{through}\"\n\
             add rule netdev {table} in{number} \
             meta priority set ip6 saddr map @pace6 fwd to \"{through}\"\n"
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_a_chain_and_none_is_left_of_before() {
        let script = script("vp", "vpu", ["wg0", "wg1"].into_iter());
        assert!(script.contains("delete table netdev vp\n"));
        assert!(script.contains("device \"wg0\"") && script.contains("device \"wg1\""));
        assert_eq!(script.matches("fwd to \"vpu\"").count(), 4);
    }
}
