//! Redis behind TLS, and somebody else in its place.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use vpnpanel_auth::revocation::Listed;
use vpnpanel_cache::testing::{TestRedis, eventually};

use crate::replica::{Database, Replica, session};

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn authority(folder: &Path, name: &str) -> (Issuer<'static, KeyPair>, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), file(folder, name, &pem))
}

/// A server with a certificate of the first authority; the second is another.
fn server(folder: &Path) -> (TestRedis, PathBuf) {
    let (issuer, ca) = authority(folder, "ca.pem");
    let (_, other) = authority(folder, "other.pem");
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let chain = params.signed_by(&key, &issuer).unwrap().pem();
    let chain = file(folder, "redis.crt", &chain);
    let key = file(folder, "redis.key", &key.serialize_pem());
    (TestRedis::tls(&chain, &key, &ca), other)
}

#[tokio::test]
async fn replicas_share_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (redis, _) = server(folder.path());
    assert!(redis.url().starts_with("rediss://"));
    let database = Database::default();
    let one = Replica::start(&redis, &database).await;
    let other = Replica::start(&redis, &database).await;
    assert_eq!(one.cache.revocations.check(session(1)).await, Listed::Clear);
    assert_eq!(
        other.cache.revocations.check(session(1)).await,
        Listed::Clear
    );
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_spoken_to_and_the_log_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (redis, other) = server(folder.path());
    let redis = redis.believing(&other);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let replica = Replica::away(&redis, &Database::default());
    eventually("the log says why", async || {
        assert_ne!(
            replica.cache.revocations.check(session(1)).await,
            Listed::Clear
        );
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        said.contains("redis_away") && said.contains("UnknownIssuer")
    })
    .await;
}
