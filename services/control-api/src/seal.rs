//! Secrets of the store, sealed and opened: the pki crate's sealer in this service's terms.

use std::sync::Arc;

use vpnpanel_auth::SourceError;
use vpnpanel_domain::{DeviceId, InboundId, NodeId, UserId};
use vpnpanel_pki::{DeviceSeed, Sealer, context};
use vpnpanel_store::{
    DeviceKeys, MakeDeviceKeys, MakeNodeKey, NewDevice, NodeKey, SubscriptionToken, fresh_id,
};
use zeroize::Zeroizing;

use crate::{
    Error,
    subscription::token,
    wireguard::keys::{self, SecretKey},
};

/// Seals and opens what the store keeps. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    sealer: Arc<Sealer>,
}

impl Vault {
    /// Works with the installation's sealer.
    pub fn new(sealer: Arc<Sealer>) -> Self {
        Self { sealer }
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    pub(crate) fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.sealer.seal(context, secret)?)
    }

    pub(crate) fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        Ok(self.sealer.open(context, sealed)?)
    }

    /// A device with fresh keys.
    pub(crate) fn new_device(&self, name: &str) -> Result<NewDevice, Error> {
        let id: DeviceId = fresh_id();
        Ok(NewDevice {
            id,
            name: name.to_owned(),
            keys: self.device_keys(id)?,
        })
    }

    /// A device whose private key its user keeps. What it shows to Xray is made here all the same.
    pub(crate) fn device_of_key(
        &self,
        name: &str,
        public_key: [u8; 32],
    ) -> Result<NewDevice, Error> {
        let made = self.new_device(name)?;
        Ok(NewDevice {
            keys: DeviceKeys {
                public_key,
                sealed_private_key: None,
                ..made.keys
            },
            ..made
        })
    }

    fn device_keys(&self, id: DeviceId) -> Result<DeviceKeys, Error> {
        let (secret, public_key) = keys::pair()?;
        let preshared = keys::preshared()?;
        Ok(DeviceKeys {
            public_key,
            sealed_private_key: Some(self.seal(&context::device_key(id), secret.as_slice())?),
            sealed_preshared_key: Some(
                self.seal(&context::preshared_key(id), preshared.as_slice())?,
            ),
            sealed_seed: self.new_seed(id)?,
        })
    }

    /// What a device's credentials for Xray are derived from, sealed.
    pub(crate) fn new_seed(&self, device: DeviceId) -> Result<Vec<u8>, Error> {
        self.seal(
            &context::device_seed(device),
            DeviceSeed::generate()?.bytes(),
        )
    }

    /// What a device's credentials for Xray are derived from.
    pub(crate) fn device_seed(&self, device: DeviceId, sealed: &[u8]) -> Result<DeviceSeed, Error> {
        let opened = self.open(&context::device_seed(device), sealed)?;
        Ok(DeviceSeed::from_bytes(&opened)?)
    }

    /// A new token for the link of a user's subscription.
    pub(crate) fn new_subscription_token(&self, user: UserId) -> Result<SubscriptionToken, Error> {
        let token = token::generate()?;
        Ok(SubscriptionToken {
            hash: token::hash(&token),
            sealed: self.seal(&context::subscription_token(user), token.as_bytes())?,
        })
    }

    /// The token in the link of a user's subscription.
    pub(crate) fn subscription_token(
        &self,
        user: UserId,
        sealed: &[u8],
    ) -> Result<Zeroizing<String>, Error> {
        let opened = self.open(&context::subscription_token(user), sealed)?;
        let text = std::str::from_utf8(&opened)
            .map_err(|_| Error::Corrupt("the token of a subscription is no text"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// The private key of a device.
    pub(crate) fn device_key(&self, device: DeviceId, sealed: &[u8]) -> Result<SecretKey, Error> {
        key(&self.open(&context::device_key(device), sealed)?)
    }

    /// The preshared key of a device.
    pub(crate) fn preshared_key(
        &self,
        device: DeviceId,
        sealed: &[u8],
    ) -> Result<SecretKey, Error> {
        key(&self.open(&context::preshared_key(device), sealed)?)
    }
}

/// What replicas share outside of the database is sealed as well.
impl vpnpanel_auth::Seal for Vault {
    fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, SourceError> {
        Ok(self.sealer.seal(context, secret)?)
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SourceError> {
        Ok(self.sealer.open(context, sealed)?.to_vec())
    }
}

/// The store asks for the keys of an inbound on a node while it binds them.
impl MakeNodeKey for Vault {
    fn make_node_key(
        &self,
        inbound: InboundId,
        node: NodeId,
    ) -> Result<NodeKey, Box<dyn std::error::Error + Send + Sync>> {
        let (secret, public_key) = keys::pair()?;
        Ok(NodeKey {
            public_key: public_key.to_vec(),
            sealed_private_key: self
                .seal(&context::inbound_key(inbound, node), secret.as_slice())?,
        })
    }
}

/// The store asks for what a device shows while it takes the old from it.
impl MakeDeviceKeys for Vault {
    fn make_device_keys(
        &self,
        device: DeviceId,
    ) -> Result<DeviceKeys, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.device_keys(device)?)
    }
}

/// A key of 32 bytes.
pub(crate) fn key(bytes: &[u8]) -> Result<SecretKey, Error> {
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(Error::Corrupt("a stored key is not 32 bytes long"));
    }
    key.copy_from_slice(bytes);
    Ok(key)
}
