//! What the build refuses: the check that build.rs makes, on contracts that declare too little.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "declared.rs"]
mod declared;

use prost_reflect::DescriptorPool;
use protox::file::{
    ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver,
};

/// A file that is nowhere on disk.
struct Odd(String);

impl FileResolver for Odd {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "odd.proto" {
            return File::from_source(name, &self.0);
        }
        Err(protox::Error::file_not_found(name))
    }
}

/// What the build says to a method with these options, whose request has these fields.
fn checked(options: &str, fields: &str) -> Result<(), String> {
    let source = format!(
        r#"
        syntax = "proto3";
        package vpnpanel.odd.v1;
        import "buf/validate/validate.proto";
        import "google/api/annotations.proto";
        import "vpnpanel/options/v1/options.proto";
        service OddService {{
          rpc DoOdd(DoOddRequest) returns (DoOddResponse) {{
            {options}
          }}
        }}
        enum Oddity {{
          ODDITY_UNSPECIFIED = 0;
        }}
        message DoOddRequest {{
          {fields}
        }}
        message DoOddResponse {{}}
        "#
    );
    let mut files = ChainFileResolver::new();
    files.add(Odd(source));
    files.add(IncludeFileResolver::new("proto".into()));
    files.add(IncludeFileResolver::new("proto/third_party".into()));
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true);
    compiler.open_file("odd.proto").unwrap();
    let descriptors = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(descriptors.as_slice()).unwrap();
    declared::check(&pool).map_err(|error| error.to_string())
}

const GET: &str = r#"option (google.api.http) = {get: "/v1/odd"};"#;
const POST: &str = r#"option (google.api.http) = {post: "/v1/odd" body: "*"};"#;
const SIGNED_IN: &str = "option (vpnpanel.options.v1.access) = {authenticated: true};";
const AUDITED: &str = "option (vpnpanel.options.v1.audited) = true;";
const TENANT: &str = "string tenant_id = 1 [(buf.validate.field).string.uuid = true];";

fn permission(name: &str, tenant_field: &str) -> String {
    format!(
        r#"{GET} option (vpnpanel.options.v1.access) =
           {{permission: {{name: "{name}" tenant_field: "{tenant_field}"}}}};"#
    )
}

/// The build fails, names the method or field, and says this.
fn refused(options: &str, fields: &str, about: &str) {
    let refusal = checked(options, fields).unwrap_err();
    assert!(refusal.contains("vpnpanel.odd.v1."), "{refusal}");
    assert!(refusal.contains(about), "{refusal}");
}

#[test]
fn a_method_that_declares_enough_builds() {
    checked(&format!("{GET} {SIGNED_IN}"), "").unwrap();
    checked(&format!("{POST} {SIGNED_IN} {AUDITED}"), TENANT).unwrap();
    checked(&permission("odd.read", ""), "").unwrap();
    checked(&permission("odd.read", "tenant_id"), TENANT).unwrap();
}

#[test]
fn a_method_without_an_access_option_does_not_build() {
    refused(GET, "", "DoOdd: declare who may call it");
    let empty = format!("{GET} option (vpnpanel.options.v1.access) = {{}};");
    refused(&empty, "", "DoOdd: the access option has no rule");
    let nobody =
        format!("{GET} option (vpnpanel.options.v1.access) = {{control_plane_certificate: {{}}}};");
    refused(&nobody, "", "name the services");
}

#[test]
fn a_permission_that_is_none_does_not_build() {
    for name in ["", "odd", ".read", "odd."] {
        refused(&permission(name, ""), "", "is not `resource.verb`");
    }
}

#[test]
fn a_tenant_that_no_field_names_does_not_build() {
    refused(&permission("odd.read", "tenant_id"), "", "has no field");
    let number = "uint32 tenant_id = 1;";
    refused(
        &permission("odd.read", "tenant_id"),
        number,
        "does not lead to a string",
    );
    refused(
        &permission("odd.read", "tenant_id.x"),
        TENANT,
        "does not lead to a string",
    );
}

#[test]
fn a_change_that_is_not_audited_does_not_build() {
    for verb in ["post", "put", "patch", "delete"] {
        let options = format!(r#"option (google.api.http) = {{{verb}: "/v1/odd"}}; {SIGNED_IN}"#);
        refused(&options, "", "declare audited");
    }
}

#[test]
fn a_method_is_bound_to_rest_or_says_that_it_is_not() {
    refused(SIGNED_IN, "", "either a REST binding");
    let both = format!("{GET} {SIGNED_IN} option (vpnpanel.options.v1.grpc_only) = true;");
    refused(&both, "", "either a REST binding");
}

#[test]
fn a_field_without_a_bound_does_not_build() {
    let options = format!("{GET} {SIGNED_IN}");
    for (field, about) in [
        ("string text = 1;", "string.max_len"),
        ("bytes blob = 1;", "bytes.max_len"),
        ("Oddity oddity = 1;", "enum.defined_only"),
        ("repeated uint32 numbers = 1;", "repeated.max_items"),
        ("map<string, string> labels = 1;", "bound the map"),
        (
            "repeated string texts = 1 [(buf.validate.field).repeated.max_items = 3];",
            "string.max_len",
        ),
    ] {
        refused(&options, field, about);
    }
}
