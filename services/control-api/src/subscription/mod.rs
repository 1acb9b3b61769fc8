//! How a user's devices connect, for the programs that do: one [`Endpoint`] for each way, of which
//! every format is made. Nothing here reads the database or the clock.

mod endpoint;
mod share_link;
mod xray_config;

pub(crate) use endpoint::{Access, ClientSecurity, Endpoint, XrayAccess};
pub(crate) use share_link::share_link;
pub(crate) use xray_config::xray_config;
