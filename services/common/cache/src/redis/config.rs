//! From the settings to what the client library wants to see.

use fred::types::config::{Config, TlsConfig, TlsConnector};
use rustls::{ClientConfig, RootCertStore};
use vpnpanel_runtime::{settings::Secret, tls::TrustBundle};

use crate::{CacheError, CacheSettings};

const SCHEMES: [&str; 6] = [
    "redis",
    "rediss",
    "redis-sentinel",
    "rediss-sentinel",
    "redis-cluster",
    "rediss-cluster",
];
const MAX_PREFIX: usize = 64;

/// The configuration of a connection, but for its database.
pub(super) fn read(settings: &CacheSettings, url: &Secret) -> Result<Config, CacheError> {
    let prefix = settings.redis_prefix.as_bytes();
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
    if !(1..=MAX_PREFIX).contains(&prefix.len()) || !prefix.iter().all(fits) {
        return Err(CacheError::Prefix);
    }
    let scheme = url.expose().split_once("://").map(|(scheme, _)| scheme);
    if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) {
        return Err(CacheError::Url("the scheme is another".to_owned()));
    }
    let mut config = Config::from_url(url.expose())
        .map_err(|error| CacheError::Url(format!("{:?}", error.kind())))?;
    if config.database.take().is_some() {
        return Err(CacheError::Database);
    }
    // The process starts whether Redis is there or not.
    config.fail_fast = false;
    if let Some(path) = &settings.redis_ca {
        // Whoever names authorities means TLS, and would not notice that there is none.
        if config.tls.is_none() {
            return Err(CacheError::CaWithoutTls);
        }
        config.tls = Some(tls(path)?);
    }
    Ok(config)
}

fn tls(path: &std::path::Path) -> Result<TlsConfig, CacheError> {
    let unfit = |error: &dyn std::fmt::Display| CacheError::Ca(error.to_string());
    let bundle = TrustBundle::from_file(path).map_err(|error| unfit(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in bundle.certificates() {
        roots
            .add(certificate.clone())
            .map_err(|error| unfit(&error))?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(config).into())
}

#[cfg(test)]
mod tests {
    use vpnpanel_runtime::settings::{MapEnvironment, from_environment};

    use super::*;

    fn settings(url: &str, prefix: &str) -> Result<Config, CacheError> {
        vpnpanel_runtime::install_crypto_provider();
        let environment = MapEnvironment::from_iter([("VPNPANEL_REDIS_PREFIX", prefix)]);
        let settings: CacheSettings = from_environment(&environment).unwrap();
        read(&settings, &Secret::new(url))
    }

    #[test]
    fn the_scheme_says_what_kind_of_redis_it_is() {
        for (url, clustered, sentinel, tls) in [
            ("redis://localhost", false, false, false),
            (
                "rediss://user:pass@redis.example.com:6380",
                false,
                false,
                true,
            ),
            ("redis-cluster://a:1?node=b:2", true, false, false),
            ("rediss-cluster://a:1", true, false, true),
            (
                "redis-sentinel://a:1?sentinelServiceName=main",
                false,
                true,
                false,
            ),
        ] {
            let config = settings(url, "vpnpanel").unwrap();
            assert_eq!(config.server.is_clustered(), clustered, "{url}");
            assert_eq!(config.server.is_sentinel(), sentinel, "{url}");
            assert_eq!(config.tls.is_some(), tls, "{url}");
        }
    }

    #[test]
    fn authorities_without_tls_are_refused() {
        let environment = MapEnvironment::from_iter([("VPNPANEL_REDIS_CA", "/ca.pem")]);
        let settings: CacheSettings = from_environment(&environment).unwrap();
        for scheme in ["redis", "redis-cluster"] {
            let error = read(&settings, &Secret::new(format!("{scheme}://a:1"))).unwrap_err();
            assert!(matches!(error, CacheError::CaWithoutTls), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_told_without_its_password() {
        for url in ["http://a:hunter2@b", "hunter2", "redis+unix:///hunter2"] {
            let error = settings(url, "vpnpanel").unwrap_err();
            assert!(matches!(error, CacheError::Url(_)), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = settings("redis://localhost/3", "vpnpanel").unwrap_err();
        assert!(matches!(error, CacheError::Database));
        for prefix in ["a b", "a:b", "{a}", &"a".repeat(65)] {
            let error = settings("redis://localhost", prefix).unwrap_err();
            assert!(matches!(error, CacheError::Prefix), "{prefix}");
        }
    }
}
