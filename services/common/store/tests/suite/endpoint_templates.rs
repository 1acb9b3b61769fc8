//! Endpoint templates: made, changed and deleted by the owner of the inbound, and in each user's
//! connections.

use vpnpanel_domain::{
    Alpn, EndpointTemplateId, Fingerprint, InboundId, Limit, NamePattern, TenantId,
};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Connection, EndpointTemplateFilter, EndpointTemplatePatch, NewEndpointTemplate, Page,
    Presentation, StoreError, fresh_id, on_each_database,
};

use crate::fixture::{World, new_inbound, new_tenant};

on_each_database!(
    a_template_is_kept_as_it_was_written_and_changed,
    each_template_that_is_not_disabled_is_a_connection_in_its_order,
    an_owner_presents_its_own_inbounds_and_sees_those_offered,
    an_inbound_has_so_many_templates_and_takes_them_with_it,
);

pub(crate) fn new_template(
    id: EndpointTemplateId,
    tenant_id: Option<TenantId>,
    inbound_id: InboundId,
) -> NewEndpointTemplate {
    NewEndpointTemplate {
        id,
        tenant_id,
        inbound_id,
        name_pattern: pattern("{flag} {node}"),
        order: 0,
        disabled: false,
        presentation: Presentation::default(),
    }
}

fn pattern(text: &str) -> NamePattern {
    text.parse().unwrap()
}

async fn a_template_is_kept_as_it_was_written_and_changed(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let id = fresh_id();
    let presentation = Presentation {
        address: Some("cdn.example.com".to_owned()),
        port: Some(8443),
        server_name: Some("www.example.com".to_owned()),
        host: Some("ws.example.com".to_owned()),
        fingerprint: Some(Fingerprint::Firefox),
        alpn: vec![Alpn::H2, Alpn::Http11],
    };
    let new = NewEndpointTemplate {
        presentation: presentation.clone(),
        order: -3,
        ..new_template(id, None, world.inbound)
    };
    let made = store.create_endpoint_template(new, None).await.unwrap();
    assert_eq!(made.presentation, presentation);
    assert_eq!(store.endpoint_template(None, id).await.unwrap(), made);

    let patch = EndpointTemplatePatch {
        name_pattern: Some(pattern("{user}")),
        order: Some(4),
        disabled: Some(true),
        presentation: None,
    };
    let changed = store
        .update_endpoint_template(None, id, patch.clone(), Some(1))
        .await
        .unwrap();
    assert_eq!(changed.name_pattern.as_str(), "{user}");
    assert_eq!((changed.order, changed.disabled), (4, true));
    assert_eq!(changed.presentation, presentation);
    assert_eq!(store.endpoint_template(None, id).await.unwrap(), changed);

    let stale = store.update_endpoint_template(None, id, patch, Some(1));
    assert!(matches!(stale.await, Err(StoreError::StaleVersion)));
    let stale = store.delete_endpoint_template(None, id, Some(1)).await;
    assert!(matches!(stale, Err(StoreError::StaleVersion)));
    store
        .delete_endpoint_template(None, id, Some(2))
        .await
        .unwrap();
    let gone = store.endpoint_template(None, id).await;
    assert!(matches!(
        gone,
        Err(StoreError::NotFound("endpoint template"))
    ));
}

async fn each_template_that_is_not_disabled_is_a_connection_in_its_order(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let user = world.user("ada", Limit::None).await;
    let connections = async || store.connections(world.tenant, user.id).await.unwrap();
    let templates = async || -> Vec<_> {
        let id = |it: Connection| it.template.map(|template| template.id);
        connections().await.into_iter().map(id).collect()
    };
    assert_eq!(templates().await, [None]);

    let (last, first, hidden) = (fresh_id(), fresh_id(), fresh_id());
    for (id, order, disabled) in [(last, 1, false), (first, -1, false), (hidden, -2, true)] {
        let new = NewEndpointTemplate {
            order,
            disabled,
            ..new_template(id, None, world.inbound)
        };
        store.create_endpoint_template(new, None).await.unwrap();
    }
    assert_eq!(templates().await, [Some(first), Some(last)]);
    let shown = connections().await.remove(0);
    assert_eq!(
        shown.template.unwrap().name_pattern.as_str(),
        "{flag} {node}"
    );

    for id in [first, last] {
        let patch = EndpointTemplatePatch {
            disabled: Some(true),
            ..EndpointTemplatePatch::default()
        };
        store
            .update_endpoint_template(None, id, patch, None)
            .await
            .unwrap();
    }
    assert_eq!(templates().await, [None]);
}

async fn an_owner_presents_its_own_inbounds_and_sees_those_offered(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let other = new_tenant(store, "other").await;
    let own = new_inbound(store, Some(other), "own", 51820, "10.30.0.0/16").await;
    let (shared, theirs) = (fresh_id(), fresh_id());
    for new in [
        new_template(shared, None, world.inbound),
        new_template(theirs, Some(other), own),
    ] {
        store.create_endpoint_template(new, None).await.unwrap();
    }
    let seen = async |tenant| -> Vec<EndpointTemplateId> {
        let filter = EndpointTemplateFilter::default();
        let found = store.endpoint_templates(tenant, filter, Page::first(10));
        found.await.unwrap().iter().map(|it| it.id).collect()
    };
    assert_eq!(seen(None).await, [shared]);
    assert_eq!(seen(Some(world.tenant)).await, [shared]);
    assert_eq!(seen(Some(other)).await, [shared, theirs]);
    let filter = EndpointTemplateFilter {
        inbound_id: Some(own),
    };
    let page = Page::after(10, shared);
    let found = store.endpoint_templates(Some(other), filter, page).await;
    assert_eq!(found.unwrap().len(), 1);

    // What is offered is the platform's all the same.
    let new = new_template(fresh_id(), Some(other), world.inbound);
    let refused = store.create_endpoint_template(new, None).await;
    assert!(matches!(refused, Err(StoreError::InvalidReference { .. })));
    let refused = store.delete_endpoint_template(Some(other), shared, None);
    assert!(matches!(refused.await, Err(StoreError::NotFound(_))));
    let patch = EndpointTemplatePatch::default();
    let refused = store.update_endpoint_template(None, theirs, patch, None);
    assert!(matches!(refused.await, Err(StoreError::NotFound(_))));
}

async fn an_inbound_has_so_many_templates_and_takes_them_with_it(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let first = fresh_id();
    for id in std::iter::once(first).chain((0..19).map(|_| fresh_id())) {
        let new = new_template(id, None, world.inbound);
        store.create_endpoint_template(new, None).await.unwrap();
    }
    let new = new_template(fresh_id(), None, world.inbound);
    let refused = store.create_endpoint_template(new.clone(), None).await;
    assert!(matches!(refused, Err(StoreError::LimitReached { .. })));
    store
        .delete_endpoint_template(None, first, None)
        .await
        .unwrap();
    store.create_endpoint_template(new, None).await.unwrap();

    let own = new_inbound(store, Some(world.tenant), "own", 51820, "10.30.0.0/16").await;
    let id = fresh_id();
    let new = new_template(id, Some(world.tenant), own);
    store.create_endpoint_template(new, None).await.unwrap();
    store
        .delete_inbound(Some(world.tenant), own, None)
        .await
        .unwrap();
    let gone = store.endpoint_template(Some(world.tenant), id).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))));
}
