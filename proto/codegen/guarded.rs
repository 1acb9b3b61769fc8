//! Wrappers around every server trait: authorize, validate, then the handler. A service that
//! is mounted inside its wrapper cannot forget either.

use std::fmt::Write;

use anyhow::Result;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};

use crate::{
    declared::{self, Access},
    methods,
};

/// Rust source of `impl … for Guarded<S, G>` of every service.
pub(crate) fn generate(pool: &DescriptorPool) -> Result<String> {
    let mut source = String::new();
    for service in declared::services(pool) {
        let package = rust_path(service.package_name());
        let server = format!("{package}::{}_server", snake(service.name()));
        writeln!(source, "#[async_trait::async_trait]")?;
        writeln!(
            source,
            "impl<S, G> {server}::{name} for Guarded<S, G>\nwhere\n    S: {server}::{name},\n    \
             G: Guard,\n{{",
            name = service.name()
        )?;
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            write_method(&mut source, &method, methods::index(pool, &path))?;
        }
        writeln!(source, "}}\n")?;
    }
    Ok(source)
}

fn write_method(source: &mut String, method: &MethodDescriptor, index: usize) -> Result<()> {
    let name = snake(method.name());
    let input = type_path(&method.input());
    let output = type_path(&method.output());
    let request = if method.is_client_streaming() {
        format!("tonic::Streaming<{input}>")
    } else {
        input
    };
    let response = if method.is_server_streaming() {
        writeln!(source, "    type {0}Stream = S::{0}Stream;", method.name())?;
        format!("Self::{}Stream", method.name())
    } else {
        output
    };
    let (check, tenant) = if method.is_client_streaming() {
        ("admit_stream", "None".to_owned())
    } else {
        ("admit", tenant_expression(method)?)
    };
    writeln!(
        source,
        "    async fn {name}(&self, request: tonic::Request<{request}>) -> \
         Result<tonic::Response<{response}>, tonic::Status> {{\n        \
         let request = self.{check}(&METHODS[{index}], request, |_message| {tenant}).await?;\n        \
         self.inner.{name}(request).await\n    }}"
    )?;
    Ok(())
}

/// An expression over `_message` that gives the tenant a request names.
fn tenant_expression(method: &MethodDescriptor) -> Result<String> {
    let Access::Permission { tenant_field, .. } = declared::access(method)? else {
        return Ok("None".into());
    };
    if tenant_field.is_empty() {
        return Ok("None".into());
    }
    let fields = declared::tenant_path(&method.input(), &tenant_field)?;
    let (last, outer) = fields
        .split_last()
        .map(|(l, o)| (l.clone(), o.to_vec()))
        .unwrap_or_default();
    let mut expression = String::from("Some(_message)");
    for field in outer {
        write!(expression, ".and_then(|m| m.{field}.as_ref())")?;
    }
    write!(
        expression,
        ".map(|m| m.{last}.as_str()).filter(|t| !t.is_empty())"
    )?;
    Ok(expression)
}

/// Path of a package's module in the contract crate.
pub(crate) fn rust_path(package: &str) -> String {
    format!("crate::packages::{}", package.replace('.', "::"))
}

/// Path of a message's type in the contract crate.
pub(crate) fn type_path(message: &MessageDescriptor) -> String {
    match message.full_name() {
        "google.protobuf.Empty" => "()".into(),
        name if name.starts_with("google.protobuf.") => {
            format!("prost_types::{}", message.name())
        }
        _ => format!("{}::{}", rust_path(message.package_name()), message.name()),
    }
}

/// `CreateUser` → `create_user`, as prost names modules and methods.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let starts_word = c.is_uppercase()
            && i > 0
            && (chars[i - 1].is_lowercase() || chars.get(i + 1).is_some_and(|n| n.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
