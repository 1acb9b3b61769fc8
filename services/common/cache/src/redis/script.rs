//! Lua scripts: what has to happen in one step, in one round trip.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use fred::{
    error::Error as RedisError,
    interfaces::LuaInterface,
    types::{FromValue, Value},
};

use super::link::Connection;

/// A script, with the name that Redis gives it.
pub(crate) struct Script {
    text: &'static str,
    name: String,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        // SHA-1 is what Redis names scripts by.
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let name = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Self {
            text,
            name: name.collect(),
        }
    }

    /// Runs it; sends its text where Redis does not know it (any more).
    pub(crate) async fn run<T: FromValue>(
        &self,
        connection: &Connection,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<T, RedisError> {
        let known = connection
            .evalsha(self.name.as_str(), keys.clone(), arguments.clone())
            .await;
        match known {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                connection.eval(self.text, keys, arguments).await
            }
            answer => answer,
        }
    }
}
