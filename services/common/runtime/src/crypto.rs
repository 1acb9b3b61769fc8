//! One crypto provider for the whole process: with two linked in, rustls cannot choose and panics.

/// Makes aws-lc-rs the process's TLS provider. First call of every main and every TLS test;
/// harmless when repeated.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, which is what was asked for.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
