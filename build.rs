//! Compiles the contract: messages and stubs by prost and tonic, and from the same descriptor
//! what every method and field declares (access, validation, redaction). Needs no protoc.
//! A method or field that declares too little fails the build here.

#[path = "proto/codegen/declared.rs"]
mod declared;
#[path = "proto/codegen/guarded.rs"]
mod guarded;
#[path = "proto/codegen/methods.rs"]
mod methods;
#[path = "proto/codegen/redacted.rs"]
mod redacted;
#[path = "proto/codegen/validation.rs"]
mod validation;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost_reflect::DescriptorPool;

fn main() -> Result<()> {
    let proto = Path::new("proto");
    let third_party = proto.join("third_party");
    let files = proto_files(&proto.join("vpnpanel"))?;
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new([proto, &third_party])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files.iter().map(PathBuf::as_path))?;
    // The bytes as protox encodes them: a round trip through prost_types drops the options.
    let descriptors = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(descriptors.as_slice())?;
    declared::check(&pool)?;

    let out = PathBuf::from(std::env::var("OUT_DIR").context("OUT_DIR is set by cargo")?);
    std::fs::write(out.join("descriptors.bin"), &descriptors)?;
    std::fs::write(out.join("methods.rs"), methods::generate(&pool)?)?;
    std::fs::write(out.join("guarded.rs"), guarded::generate(&pool)?)?;
    std::fs::write(out.join("validation.rs"), validation::generate(&pool)?)?;
    std::fs::write(out.join("redacted.rs"), redacted::generate(&pool)?)?;

    let mut names = tonic_prost_build::Config::new();
    // A message knows what the descriptor calls it.
    names.enable_type_names();
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".google.api.HttpBody.data")
        .bytes(".vpnpanel.agent.v1.UsageBatch.payload")
        .bytes(".vpnpanel.agent.v1.ConfigUpdate.data")
        .skip_debug(redacted::message_paths(&pool))
        // NodeLinkService has a method of the name that tonic would give its own constructor;
        // clients are made from a channel.
        .build_transport(false)
        .codec_path("crate::SmallBuffers")
        .include_file("packages.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), names)?;
    xray(&third_party)
}

/// Messages and client stubs of Xray's own interface, which the node agent speaks. They are no
/// part of the contract: nothing of ours serves them or declares anything about them.
fn xray(third_party: &Path) -> Result<()> {
    let files = proto_files(&third_party.join("xray"))?;
    let mut compiler = protox::Compiler::new([third_party])?;
    compiler.include_imports(true);
    compiler.open_files(files.iter().map(PathBuf::as_path))?;
    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();
    tonic_prost_build::configure()
        .skip_debug(XRAY_SECRETS)
        .build_server(false)
        .build_transport(false)
        .include_file("xray_packages.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), names)?;
    Ok(())
}

/// Messages of Xray that hold a secret: they are never printed.
const XRAY_SECRETS: [&str; 8] = [
    ".xray.common.serial.TypedMessage",
    ".xray.transport.internet.reality.Config",
    ".xray.transport.internet.tls.Certificate",
    ".xray.proxy.vless.Account",
    ".xray.proxy.vmess.Account",
    ".xray.proxy.trojan.Account",
    ".xray.proxy.shadowsocks_2022.Account",
    ".xray.proxy.shadowsocks_2022.MultiUserServerConfig",
];

/// Every proto file of the contract, sorted so that builds are the same everywhere.
fn proto_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
