//! The table of methods: what each declares, as static data of the contract crate.

use std::fmt::Write;

use anyhow::Result;
use prost_reflect::DescriptorPool;

use crate::declared::{self, Access};

/// Options of a method that are a field of `Method` of the same name.
const FLAGS: [&str; 5] = [
    "audited",
    "grpc_only",
    "session_only",
    "before_password_change",
    "before_second_factor",
];

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
                Access::CertificateProof => "Access::CertificateProof".to_owned(),
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
            let mut row = format!(
                "    Method {{ path: {path:?}, service: {:?}, name: {:?}, access: {access}",
                service.full_name(),
                method.name(),
            );
            for name in FLAGS {
                let option = format!("vpnpanel.options.v1.{name}");
                let set = declared::flag(&method.options(), &option);
                write!(row, ", {name}: {set}")?;
            }
            row.push_str(" },\n");
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
