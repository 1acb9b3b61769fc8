//! The audited methods of endpoint templates.

use vpnpanel_api::{
    Method,
    access::v1::{
        CreateEndpointTemplateRequest, CreateEndpointTemplateResponse,
        DeleteEndpointTemplateRequest, DeleteEndpointTemplateResponse, EndpointTemplate,
        UpdateEndpointTemplateRequest, UpdateEndpointTemplateResponse,
    },
};

use super::{Expected, Stage, call};
use crate::endpoint_templates::create;

/// Calls the method as it is meant to be called; `None` where it is another kind of method.
pub(super) async fn perform(
    stage: &mut Stage,
    method: &'static Method,
    id: &str,
) -> Option<Expected> {
    let path = method.path;
    let admin = stage.admin.clone();
    let template = EndpointTemplate {
        inbound_id: stage.inbound.id.clone(),
        ..EndpointTemplate::default()
    };
    Some(match method.name {
        "CreateEndpointTemplate" => {
            let request = CreateEndpointTemplateRequest {
                endpoint_template: Some(template),
                ..CreateEndpointTemplateRequest::default()
            };
            let made: CreateEndpointTemplateResponse = call(&admin, path, id, request).await;
            stage.done("endpointTemplate", &made.endpoint_template.unwrap().id)
        }
        "UpdateEndpointTemplate" => {
            let made = create(&admin, None, template).await.unwrap();
            let request = UpdateEndpointTemplateRequest {
                endpoint_template: Some(EndpointTemplate {
                    order: 7,
                    ..made.clone()
                }),
                update_mask: None,
            };
            let _changed: UpdateEndpointTemplateResponse = call(&admin, path, id, request).await;
            stage.done("endpointTemplate", &made.id)
        }
        "DeleteEndpointTemplate" => {
            let made = create(&admin, None, template).await.unwrap();
            let request = DeleteEndpointTemplateRequest {
                endpoint_template_id: made.id.clone(),
                ..DeleteEndpointTemplateRequest::default()
            };
            let _gone: DeleteEndpointTemplateResponse = call(&admin, path, id, request).await;
            stage.done("endpointTemplate", &made.id)
        }
        _ => return None,
    })
}
