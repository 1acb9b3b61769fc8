//! What can be wrong with the settings. Once they are right, nothing here fails: Redis being away
//! is a state.

/// Settings that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The URL is none of Redis. Says nothing of its text, which may hold a password.
    #[error(
        "VPNPANEL_REDIS_URL: expected redis://, rediss://, redis-sentinel:// or redis-cluster:// \
         with a host: {0}"
    )]
    Url(String),
    /// The URL names a database.
    #[error(
        "VPNPANEL_REDIS_URL: name no database, each concern has its own (docs/redis.md); \
         installations that share a server differ by VPNPANEL_REDIS_PREFIX"
    )]
    Database,
    /// The prefix cannot begin a key.
    #[error("VPNPANEL_REDIS_PREFIX: expected 1 to 64 of the characters a-z A-Z 0-9 . _ -")]
    Prefix,
    /// There is nothing to verify by them.
    #[error(
        "VPNPANEL_REDIS_CA: VPNPANEL_REDIS_URL is without TLS: write rediss:// (rediss-sentinel://, \
         rediss-cluster://), or leave the authorities out"
    )]
    CaWithoutTls,
    /// The certificates cannot be used.
    #[error("VPNPANEL_REDIS_CA: {0}")]
    Ca(String),
}
