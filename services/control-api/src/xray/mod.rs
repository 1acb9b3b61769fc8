//! What this service knows of Xray: the settings of its inbounds and their secrets.

mod security;
pub(crate) mod settings;

use vpnpanel_store::Xray;

pub(crate) use security::{Secret, key_text};

/// Settings, and what becomes of the inbound's secret with them.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) settings: Xray,
    pub(crate) secret: Secret,
}
