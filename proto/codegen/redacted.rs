//! `Debug` of messages that carry secrets: the secret fields print as `[redacted]`, so that no
//! log line, panic or error can show them.

use std::fmt::Write;

use anyhow::Result;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::{declared, guarded::type_path};

/// Paths of the messages whose derived `Debug` is replaced.
pub(crate) fn message_paths(pool: &DescriptorPool) -> Vec<String> {
    messages(pool)
        .iter()
        .map(|m| format!(".{}", m.full_name()))
        .collect()
}

/// Rust source of the `Debug` implementations.
pub(crate) fn generate(pool: &DescriptorPool) -> Result<String> {
    let mut source = String::new();
    for message in messages(pool) {
        writeln!(
            source,
            "impl std::fmt::Debug for {} {{\n    \
             fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{\n        \
             f.debug_struct({:?})",
            type_path(&message),
            message.name()
        )?;
        for field in message.fields().filter(|f| f.containing_oneof().is_none()) {
            if declared::secret(&field) {
                writeln!(source, "            .field({:?}, &Redacted)", field.name())?;
            } else {
                writeln!(source, "            .field({0:?}, &self.{0})", field.name())?;
            }
        }
        for oneof in message.oneofs() {
            writeln!(source, "            .field({0:?}, &self.{0})", oneof.name())?;
        }
        writeln!(source, "            .finish()\n    }}\n}}\n")?;
    }
    Ok(source)
}

fn messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    pool.all_messages()
        .filter(|m| m.full_name().starts_with("vpnpanel."))
        .filter(|m| m.fields().any(|f| declared::secret(&f)))
        .collect()
}
