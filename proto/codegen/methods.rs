//! The table of methods: what each declares, as static data of the contract crate.

use std::fmt::Write;

use anyhow::Result;
use prost_reflect::DescriptorPool;

use crate::declared::{self, Access};

/// Rust source of `METHODS`, sorted by path.
pub(crate) fn generate(pool: &DescriptorPool) -> Result<String> {
    let mut rows = Vec::new();
    for service in declared::services(pool) {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let access = match declared::access(&method)? {
                Access::Public => "Access::Public".to_owned(),
                Access::Authenticated => "Access::Authenticated".to_owned(),
                Access::JoinToken => "Access::JoinToken".to_owned(),
                Access::NodeCertificate => "Access::NodeCertificate".to_owned(),
                Access::Permission { name, tenant_field } => format!(
                    "Access::Permission {{ name: {name:?}, tenant_field: {} }}",
                    if tenant_field.is_empty() {
                        "None".into()
                    } else {
                        format!("Some({tenant_field:?})")
                    }
                ),
                Access::ControlPlane { services } => {
                    format!("Access::ControlPlaneCertificate {{ services: &{services:?} }}")
                }
            };
            let row = format!(
                "    Method {{ path: {path:?}, service: {:?}, name: {:?}, access: {access}, \
                 audited: {}, grpc_only: {} }},\n",
                service.full_name(),
                method.name(),
                declared::flag(&method.options(), "vpnpanel.options.v1.audited"),
                declared::flag(&method.options(), "vpnpanel.options.v1.grpc_only"),
            );
            rows.push((path, row));
        }
    }
    rows.sort();
    let mut source = String::new();
    writeln!(source, "/// Every method of the contract, sorted by path.")?;
    writeln!(source, "pub static METHODS: &[Method] = &[")?;
    for (_, row) in &rows {
        source.push_str(row);
    }
    source.push_str("];\n");
    Ok(source)
}

/// Where a method stands in `METHODS`.
pub(crate) fn index(pool: &DescriptorPool, path: &str) -> usize {
    let mut paths: Vec<String> = declared::services(pool)
        .iter()
        .flat_map(|s| {
            s.methods()
                .map(|m| format!("/{}/{}", s.full_name(), m.name()))
                .collect::<Vec<_>>()
        })
        .collect();
    paths.sort();
    paths.iter().position(|p| p == path).unwrap_or(usize::MAX)
}
