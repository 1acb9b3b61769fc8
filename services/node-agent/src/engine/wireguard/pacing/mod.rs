//! Holds users back to their speed without dropping what can wait. That a user is not faster than
//! it may be is the table's business ([`crate::nft`]): it drops what is too fast, from the first
//! packet and for everybody. What is paced here besides waits its turn in a short queue instead, so
//! that a connection runs evenly at the limit:
//!
//! - to the user, by a class of its interface. The table counts before that, so the class lets a
//!   little more through than the table does: who sends too fast loses its packets there, unbilled.
//!   What a full queue drops, when a connection is still finding its speed, is on the bill;
//! - from the user, by a class of a device of ours (`ifb`) that its packets are sent through when
//!   they come out of the tunnel: before anything is counted, and no other device of the host is
//!   touched.
//!
//! Classes are made for users that have traffic and go when it ends. What is there is compared with
//! what should be, so a restarted agent goes on with what it finds.

mod slots;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;
use vpnpanel_domain::{InboundId, PeerId, SpeedLimit, UserId};

use super::names::Names;
use crate::engine::Peer;
use crate::nft::{Redirect, Table};
use crate::tc::{Classes, Scheduler};
use crate::{Error, host};
use slots::Slots;
use wanted::{Limited, Wanted, difference};

/// Users that are paced at once: with more classes the kernel takes too long to make one.
pub const MOST_PACED: usize = 10_000;

/// What becomes of users that are not paced.
const DROPS: &str = "are held back to their speed by drops";

/// What is paced and where. Empty until users with a limit have traffic.
#[derive(Debug)]
pub(super) struct Pacing {
    table: String,
    /// The device of ours.
    through: String,
    major: u16,
    scheduler: Option<Scheduler>,
    slots: Slots,
    queues: BTreeMap<String, Queue>,
    redirect: Option<(Redirect, Devices)>,
    /// What an earlier agent left has been looked at.
    adopted: bool,
    lacks: Lacks,
    shortfall: Option<String>,
}

/// What the kernel does not have; it is not asked again.
#[derive(Debug, Default)]
struct Lacks {
    htb: bool,
    ifb: bool,
}

/// A device whose packets wait in classes.
#[derive(Debug)]
struct Queue {
    index: u32,
    classes: Classes,
}

/// Devices by name and number.
type Devices = BTreeSet<(String, u32)>;

/// What pacing is about: the peers and where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) peers: &'a HashMap<PeerId, Peer>,
    /// Names of the interfaces.
    pub(super) interfaces: &'a BTreeMap<InboundId, String>,
    /// Users that had traffic since the last look.
    pub(super) active: &'a HashSet<UserId>,
}

impl Pacing {
    pub(super) fn new(names: &Names, most: usize) -> Self {
        Self {
            table: names.table(),
            through: names.through(),
            major: names.major(),
            scheduler: None,
            slots: Slots::new(most),
            queues: BTreeMap::new(),
            redirect: None,
            adopted: false,
            lacks: Lacks::default(),
            shortfall: None,
        }
    }

    /// Why users are held back less gently than they could be.
    pub(super) fn shortfall(&self) -> Option<&str> {
        self.shortfall.as_deref()
    }

    /// Brings classes to what they should be. Where that fails limits hold all the same, and it is
    /// tried again the next time.
    pub(super) fn keep(&mut self, view: View<'_>, table: &mut Table, now: Instant) {
        let mut limited = Limited::new();
        for peer in view.peers.values() {
            if peer.speed != SpeedLimit::NONE {
                limited.entry(peer.user).or_default().push(peer);
            }
        }
        let idle = self.slots.is_empty() && self.queues.is_empty() && self.redirect.is_none();
        if self.adopted && idle && limited.is_empty() {
            self.shortfall = None;
            return;
        }
        let result = self.scheduler().and_then(|mut scheduler| {
            let kept = self.try_keep(&mut scheduler, &limited, view, table, now);
            self.scheduler = Some(scheduler);
            kept
        });
        let shortfall = match result {
            Ok(shortfall) => shortfall,
            Err(error) => {
                // What is there is looked at anew.
                self.scheduler = None;
                self.queues.clear();
                self.redirect = None;
                self.adopted = false;
                Some(format!("users {DROPS}: {error}"))
            }
        };
        if let Some(reason) = shortfall.as_ref().filter(|_| self.shortfall != shortfall) {
            tracing::warn!(
                event = "not_paced",
                reason,
                "speed limits hold by drops alone"
            );
        }
        self.shortfall = shortfall;
    }

    fn scheduler(&mut self) -> Result<Scheduler, Error> {
        match self.scheduler.take() {
            Some(scheduler) => Ok(scheduler),
            None => Scheduler::open(self.major),
        }
    }

    fn try_keep(
        &mut self,
        scheduler: &mut Scheduler,
        limited: &Limited<'_>,
        view: View<'_>,
        table: &mut Table,
        now: Instant,
    ) -> Result<Option<String>, Error> {
        let mut devices = scheduler.links()?;
        if !self.adopted {
            self.adopt(scheduler, &devices, limited, table, now)?;
        }
        self.slots
            .update(|user| limited.contains_key(&user), view.active, now);
        let class = |user| {
            let minor = self.slots.of(user)?;
            Some((minor, scheduler.class(minor)))
        };
        let mut wanted = Wanted::of(limited, view.interfaces, &self.through, class);
        let shortfall = self.open_devices(scheduler, &mut wanted, &mut devices)?;
        for (device, classes) in &wanted.classes {
            self.set_classes(scheduler, device, classes)?;
        }
        self.set_paces(table, &wanted, view, &devices)?;
        self.clear(scheduler, &wanted)?;
        Ok(shortfall)
    }

    /// Takes over what an earlier agent left.
    fn adopt(
        &mut self,
        scheduler: &mut Scheduler,
        devices: &BTreeMap<String, u32>,
        limited: &Limited<'_>,
        table: &Table,
        now: Instant,
    ) -> Result<(), Error> {
        let ours = scheduler.devices()?;
        for (name, index) in devices {
            if ours.contains(index) {
                let queue = Queue {
                    index: *index,
                    classes: scheduler.classes(*index)?,
                };
                self.queues.insert(name.clone(), queue);
            }
        }
        let paces: HashMap<IpAddr, u32> = table.paces().collect();
        for (user, peers) in limited {
            let mut addresses = peers.iter().flat_map(|peer| &peer.addresses);
            let class = addresses.find_map(|address| paces.get(address));
            if let Some(minor) = class.and_then(|class| scheduler.minor(*class)) {
                self.slots.adopt(*user, minor, now);
            }
        }
        // It is made anew where it is needed.
        Redirect::remove(&self.table)?;
        self.adopted = true;
        Ok(())
    }

    /// Sees to it that the devices can have classes; takes those out of what is wanted that cannot,
    /// and says why.
    fn open_devices(
        &mut self,
        scheduler: &mut Scheduler,
        wanted: &mut Wanted,
        devices: &mut BTreeMap<String, u32>,
    ) -> Result<Option<String>, Error> {
        let mut shortfall = match self.slots.left_out() {
            0 => None,
            users => Some(format!("{users} users {DROPS}: all classes are taken")),
        };
        if self.lacks.htb {
            *wanted = Wanted::default();
            return Ok(Some(format!("users {DROPS}: the kernel has no htb")));
        }
        if wanted.classes.contains_key(&self.through) && !self.has_through(scheduler, devices)? {
            shortfall = Some(format!("uploading users {DROPS}: the kernel has no ifb"));
        }
        for name in wanted.classes.keys().cloned().collect::<Vec<_>>() {
            let refusal = match devices.get(&name) {
                // It is being made anew, or cannot be.
                None => None,
                Some(index) => match self.open_device(scheduler, &name, *index) {
                    Ok(()) => continue,
                    Err(Error::TrafficControl { source, .. }) => Some(source),
                    Err(error) => return Err(error),
                },
            };
            if let Some(errno) = refusal {
                self.lacks.htb = errno == Errno::ENOENT;
                shortfall = Some(match errno {
                    Errno::ENOENT => format!("users {DROPS}: the kernel has no htb"),
                    Errno::EEXIST => {
                        format!("users of {name} {DROPS}: somebody else has set its qdisc")
                    }
                    errno => format!("users of {name} {DROPS}: {errno}"),
                });
            }
            self.queues.remove(&name);
            wanted.classes.remove(&name);
            if name == self.through {
                wanted.up.clear();
            }
        }
        if wanted.classes.is_empty() {
            wanted.down.clear();
        }
        Ok(shortfall)
    }

    /// Whether the device of ours is there; makes it where it can be.
    fn has_through(
        &mut self,
        scheduler: &mut Scheduler,
        devices: &mut BTreeMap<String, u32>,
    ) -> Result<bool, Error> {
        if devices.contains_key(&self.through) {
            return Ok(true);
        }
        self.lacks.ifb = self.lacks.ifb || !host::add_ifb(&self.through)?;
        if !self.lacks.ifb {
            *devices = scheduler.links()?;
        }
        Ok(!self.lacks.ifb)
    }

    /// Puts a root of ours on the device unless it is there.
    fn open_device(
        &mut self,
        scheduler: &mut Scheduler,
        name: &str,
        index: u32,
    ) -> Result<(), Error> {
        if let Some(queue) = self.queues.get(name)
            && queue.index == index
            && scheduler.is_open(index)?
        {
            return Ok(());
        }
        scheduler.open_device(index)?;
        let classes = Classes::new();
        self.queues
            .insert(name.to_owned(), Queue { index, classes });
        Ok(())
    }

    fn set_classes(
        &mut self,
        scheduler: &mut Scheduler,
        device: &str,
        wanted: &Classes,
    ) -> Result<(), Error> {
        let Some(queue) = self.queues.get_mut(device) else {
            return Ok(());
        };
        let changed = wanted
            .iter()
            .filter(|(minor, speed)| queue.classes.get(minor) != Some(speed));
        let changed: Vec<(u16, u32)> = changed.map(|(minor, speed)| (*minor, *speed)).collect();
        scheduler.set_classes(queue.index, &changed)?;
        queue.classes.extend(changed);
        Ok(())
    }

    /// Puts packets into their classes, which are there by now.
    fn set_paces(
        &mut self,
        table: &mut Table,
        wanted: &Wanted,
        view: View<'_>,
        devices: &BTreeMap<String, u32>,
    ) -> Result<(), Error> {
        let changes = difference(table.paces(), &wanted.down);
        table.pace(&changes)?;
        if wanted.up.is_empty() {
            if self.redirect.take().is_some() {
                Redirect::remove(&self.table)?;
            }
            return Ok(());
        }
        let present: Devices = view
            .interfaces
            .values()
            .filter_map(|name| Some((name.clone(), *devices.get(name)?)))
            .collect();
        // A device that was made anew has lost its chain.
        let whole = match &mut self.redirect {
            Some((redirect, on)) => *on == present && redirect.exists()?,
            None => false,
        };
        if !whole {
            let names = present.iter().map(|(name, _)| name.as_str());
            let redirect = Redirect::open(&self.table, &self.through, names)?;
            self.redirect = Some((redirect, present));
        }
        if let Some((redirect, _)) = &mut self.redirect {
            let changes = difference(redirect.paces(), &wanted.up);
            redirect.pace(&changes)?;
        }
        Ok(())
    }

    /// Takes away the classes that nobody needs, and at last what they were on.
    fn clear(&mut self, scheduler: &mut Scheduler, wanted: &Wanted) -> Result<(), Error> {
        let none = Classes::new();
        let slots = &self.slots;
        for (name, queue) in &mut self.queues {
            let wanted = wanted.classes.get(name).unwrap_or(&none);
            let idle = queue.classes.keys().copied();
            let idle: Vec<u16> = idle
                .filter(|minor| !wanted.contains_key(minor) && !slots.is_cooling(*minor))
                .collect();
            let (index, has) = (queue.index, queue.classes.len());
            if idle.len() == has {
                scheduler.close_device(index)?;
            } else {
                scheduler.delete_classes(index, &idle)?;
            }
            queue.classes.retain(|minor, _| !idle.contains(minor));
        }
        self.queues.retain(|_, queue| !queue.classes.is_empty());
        if !self.queues.contains_key(&self.through) && self.redirect.is_none() {
            host::remove(&self.through)?;
        }
        Ok(())
    }

    /// Takes everything off the host.
    pub(super) fn destroy(&mut self) -> Result<(), Error> {
        self.redirect = None;
        self.queues.clear();
        Redirect::remove(&self.table)?;
        host::remove(&self.through)
    }
}
