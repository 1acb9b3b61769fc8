//! Requests to the kernel's WireGuard over generic netlink, blocking, within bounds.
//! The messages are those of `include/uapi/linux/wireguard.h`.

use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

const FAMILY: &str = "wireguard";
/// The kernel's parts of a listing are at most 32 KiB.
const DATAGRAM: usize = 64 << 10;
const TIMEOUT_SECONDS: i64 = 5;

/// Changes an interface or its peers.
pub(super) fn set(attributes: Vec<WireguardAttribute>) -> Result<(), String> {
    Connection::open()?.wireguard(WireguardCmd::SetDevice, attributes, NLM_F_ACK)?;
    Ok(())
}

/// Everything about an interface; the kernel may tell it in several parts.
pub(super) fn get(interface: &str) -> Result<Vec<Vec<WireguardAttribute>>, String> {
    let attributes = vec![WireguardAttribute::IfName(interface.to_owned())];
    Connection::open()?.wireguard(WireguardCmd::GetDevice, attributes, NLM_F_DUMP)
}

struct Connection {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Connection {
    fn open() -> Result<Self, String> {
        let failed = |error: nix::Error| format!("generic netlink: {error}");
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )
        .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        let timeout = TimeVal::seconds(TIMEOUT_SECONDS);
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).map_err(failed)?;
        Ok(Self {
            fd,
            buffer: vec![0; DATAGRAM],
        })
    }

    fn wireguard(
        &mut self,
        cmd: WireguardCmd,
        attributes: Vec<WireguardAttribute>,
        flags: u16,
    ) -> Result<Vec<Vec<WireguardAttribute>>, String> {
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family()?);
        let parts = self.request(message, flags)?;
        Ok(parts
            .into_iter()
            .map(|part| part.payload.attributes)
            .collect())
    }

    /// The number under which the kernel knows WireGuard since it was loaded.
    fn family(&mut self) -> Result<u16, String> {
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        });
        let answers = self.request(question, NLM_F_ACK)?;
        answers
            .iter()
            .flat_map(|answer| &answer.payload.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            })
            .ok_or_else(|| "the kernel names no generic netlink family for WireGuard".to_owned())
    }

    /// Sends one message and collects its answers until the kernel says that it is done.
    fn request<T>(
        &mut self,
        message: GenlMessage<T>,
        flags: u16,
    ) -> Result<Vec<GenlMessage<T>>, String>
    where
        T: std::fmt::Debug,
        GenlMessage<T>: NetlinkSerializable + NetlinkDeserializable,
        NetlinkPayload<GenlMessage<T>>: From<GenlMessage<T>>,
    {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|error| error.to_string())?;

        let mut answers = Vec::new();
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC)
                .map_err(|error| error.to_string())?;
            let mut rest = self
                .buffer
                .get(..length)
                .ok_or_else(|| format!("an answer of {length} bytes is longer than expected"))?;
            while !rest.is_empty() {
                let answer = NetlinkMessage::<GenlMessage<T>>::deserialize(rest)
                    .map_err(|error| format!("malformed answer: {error}"))?;
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io().to_string()),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
                // Messages are padded to four bytes.
                let taken = usize::try_from(answer.header.length)
                    .unwrap_or(usize::MAX)
                    .next_multiple_of(4)
                    .max(16);
                rest = rest.get(taken..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_requests_of_generic_netlink() {
        let mut connection = Connection::open().unwrap();
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName("nlctrl".to_owned())],
        });
        let answers = connection.request(question, NLM_F_ACK).unwrap();
        let named = answers.iter().flat_map(|answer| &answer.payload.nlas);
        assert!(
            named
                .into_iter()
                .any(|nla| *nla == GenlCtrlAttrs::FamilyName("nlctrl".to_owned()))
        );
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error_that_says_why() {
        let error = get("no-such-wg").unwrap_err();
        assert!(error.contains("No such"), "{error}");
    }
}
