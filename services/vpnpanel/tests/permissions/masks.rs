//! Update masks: a change touches what may be changed, whatever its mask names.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};
use tonic::Code;
use vpnpanel_api::METHODS;
use vpnpanel_runtime::rpc::InProcess;

use crate::{
    bindings::descriptor,
    calls,
    matrix::World,
    requests::{About, request},
};

/// What the comment of a field says, as the descriptor carries it.
fn comment(field: &FieldDescriptor) -> String {
    let file = field.parent_file();
    let file = file.file_descriptor_proto();
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let of_field = locations.filter(|location| location.path == field.path());
    let comments = of_field.filter_map(|location| location.leading_comments.clone());
    comments.collect::<String>().replace('\n', " ")
}

/// Whether no change may touch the field: it names the resource, guards it, or is made here.
fn is_fixed(field: &FieldDescriptor) -> bool {
    let said = comment(field);
    let fixed = ["Output only", "Immutable", "Never changes"];
    ["id", "tenant_id", "etag"].contains(&field.name()) || fixed.iter().any(|it| said.contains(it))
}

#[tokio::test]
async fn no_mask_reaches_a_field_that_does_not_change() {
    let world = World::make().await;
    let stage = &world.stage;
    let (_, admin) = stage.account(&[(None, "admin")]).await;
    let admin = [format!("Bearer {}", stage.sign_in(&admin, None).await)];
    let mut fixed = 0;
    for method in METHODS {
        let described = descriptor(method);
        let Some(mask) = described.input().get_field_by_name("update_mask") else {
            continue;
        };
        let Kind::Message(mask_type) = mask.kind() else {
            panic!("{}", method.path);
        };
        let resource = described
            .input()
            .fields()
            .find(|it| it.name() != "update_mask" && matches!(it.kind(), Kind::Message(_)));
        let Kind::Message(resource) = resource.unwrap().kind() else {
            panic!("{}", method.path);
        };
        let scope = Some(world.tenants.ours);
        let about = About {
            scope,
            ids: &world.ids,
            in_earnest: true,
        };
        let transport = InProcess::anonymous(stage.router(method.service));
        let try_mask = async |path: &str| {
            let mut message = request(method, &described, about);
            let mut paths = DynamicMessage::new(mask_type.clone());
            let list = vec![Value::String(path.to_owned())];
            paths.set_field_by_name("paths", Value::List(list));
            message.set_field(&mask, Value::Message(paths));
            let bytes = Bytes::from(message.encode_to_vec());
            calls::grpc(&transport, &admin, method.path, bytes).await
        };
        for field in resource.fields().filter(is_fixed) {
            let answer = try_mask(field.name()).await;
            let (code, of) = (answer.code, field.full_name().to_owned());
            assert_eq!(
                code,
                Code::InvalidArgument,
                "{}: {of}: {answer:?}",
                method.path
            );
            fixed += 1;
        }
        for odd in ["", "no_such_field", "a.b", "password_hash"] {
            let answer = try_mask(odd).await;
            assert_eq!(
                answer.code,
                Code::InvalidArgument,
                "{}: {odd:?}",
                method.path
            );
        }
    }
    assert!(fixed > 20, "{fixed}");
}
