//! Subscriptions: what a user's programs and the user's browser fetch.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tonic::{Response, metadata::MetadataMap};
use vpnpanel_api::{
    google::api::HttpBody,
    subscription::v1::{GetSubscriptionRequest, GetSubscriptionResponse},
};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    subscription::{Language, Profile, Quota, Rendered, Subscriber, all_opened, format, token},
};

/// On what the form of an answer depends.
const VARY: &str = "accept, accept-language, user-agent";

pub(crate) async fn get(
    context: &Context,
    caller: &Caller,
    metadata: &MetadataMap,
    message: GetSubscriptionRequest,
) -> Result<Response<GetSubscriptionResponse>, Error> {
    let said = |name: &str| {
        let value = metadata.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let format = format::choose(&message.format, caller.user_agent(), said("accept"))?;
    let language = Language::choose(&message.lang, said("accept-language"))?;
    let found = context
        .store
        .subscription(&token::hash(&message.token))
        .await?;
    context.fetches.note(&found.user, caller.user_agent());
    let quota = Quota::of(&found.user, found.is_cut_off);
    let now_ms = context.store.now_ms();
    let subscriber = Subscriber {
        username: &found.user.username,
        quota: &quota,
        now_ms,
    };
    let endpoints = all_opened(&context.vault, found.connections, &subscriber)?;
    let profile = Profile {
        quota,
        username: found.user.username,
        title: found.tenant_name,
        endpoints,
        url: context.links.of_token(&message.token),
        support_url: context.links.support_url.clone(),
        language,
        now_ms,
    };
    answer(context, &profile, profile.render(format)?)
}

/// The bytes, with what is said about them; the gateway passes it on as headers.
fn answer(
    context: &Context,
    profile: &Profile,
    rendered: Rendered,
) -> Result<Response<GetSubscriptionResponse>, Error> {
    let mut headers = vec![
        ("etag", etag(&rendered)),
        ("vary", VARY.to_owned()),
        // A browser keeps no keys; a program that keeps the etag itself is still told "as before".
        ("cache-control", "no-store".to_owned()),
        ("subscription-userinfo", profile.quota.header()),
        ("profile-title", title(&profile.title)),
        (
            "profile-update-interval",
            context.links.update_hours.to_string(),
        ),
        ("profile-web-page-url", profile.url.to_string()),
    ];
    headers.extend(profile.support_url.clone().map(|url| ("support-url", url)));
    headers.extend(rendered.disposition.map(|it| ("content-disposition", it)));
    if let Some(policy) = rendered.policy {
        headers.push(("content-security-policy", policy.to_owned()));
        headers.push(("content-language", profile.language.code().to_owned()));
    }
    let mut reply = Response::new(GetSubscriptionResponse {
        body: Some(HttpBody {
            content_type: rendered.media_type.to_owned(),
            data: rendered.body.into(),
            ..HttpBody::default()
        }),
    });
    for (name, value) in headers {
        let value = value
            .parse()
            .map_err(|_| Error::Corrupt("a subscription has a header that is none"))?;
        reply.metadata_mut().insert(name, value);
    }
    Ok(reply)
}

/// The same for the same bytes of the same kind.
fn etag(rendered: &Rendered) -> String {
    let digest = Sha256::new()
        .chain_update(rendered.media_type)
        .chain_update(&rendered.body)
        .finalize();
    format!("\"{}\"", hex::encode(&digest[..16]))
}

/// In the form in which programs take more than ASCII.
fn title(text: &str) -> String {
    format!("base64:{}", STANDARD.encode(text))
}
