//! How a user's devices connect, for the programs that do: one [`Endpoint`] for each way, of which
//! every format is made. No format reads the database or the clock.

mod clash;
mod endpoint;
mod fetches;
pub(crate) mod format;
mod links;
mod listing;
mod opened;
mod page;
mod presented;
mod profile;
mod quota;
mod share_link;
mod sing_box;
mod sip008;
#[cfg(test)]
mod testing;
pub(crate) mod token;
mod wireguard_files;
mod xray_config;
mod yaml;

use clash::clash;

pub(crate) use endpoint::{Access, ClientSecurity, Endpoint, XrayAccess};
pub use fetches::SubscriptionFetches;
pub(crate) use links::Links;
pub(crate) use opened::{all_opened, opened};
pub(crate) use page::Language;
pub(crate) use presented::Subscriber;
pub(crate) use profile::{Profile, Rendered};
pub(crate) use quota::Quota;
pub(crate) use share_link::share_link;
pub(crate) use xray_config::xray_config;
