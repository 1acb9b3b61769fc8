//! `Debug` of Xray's messages that hold secrets: they print their names alone.

use std::fmt::{Debug, Formatter, Result};

use crate::xray::{common::serial, proxy, transport::internet};

macro_rules! secret {
    ($($message:ty),+ $(,)?) => {$(
        impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct(stringify!($message)).finish_non_exhaustive()
            }
        }
    )+};
}

secret!(
    serial::TypedMessage,
    internet::reality::Config,
    internet::tls::Certificate,
    proxy::vless::Account,
    proxy::vmess::Account,
    proxy::trojan::Account,
    proxy::shadowsocks_2022::Account,
    proxy::shadowsocks_2022::MultiUserServerConfig,
);
