//! The sessions of the signed-in account.

use vpnpanel_api::auth::v1::{
    ListSessionsRequest, ListSessionsResponse, RevokeOtherSessionsRequest,
    RevokeOtherSessionsResponse, RevokeSessionRequest, RevokeSessionResponse, Session,
};
use vpnpanel_domain::SessionId;
use vpnpanel_store as store;

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{ids, page::List, time},
};

pub(crate) async fn list(
    context: &Context,
    caller: &Caller,
    message: ListSessionsRequest,
) -> Result<ListSessionsResponse, Error> {
    let principal = caller.principal()?;
    let list = List::new("sessions").of(principal.account);
    let page = list.page(message.page_size, &message.page_token)?;
    let found = context.store.sessions(principal.account, page.keyset());
    let mut sessions = found.await?;
    let next_page_token = list.cut(&page, &mut sessions, |session| session.id.uuid());
    let current = principal.session();
    Ok(ListSessionsResponse {
        sessions: sessions
            .into_iter()
            .map(|session| shown(session, current))
            .collect(),
        next_page_token,
    })
}

pub(crate) async fn revoke(
    context: &Context,
    caller: &Caller,
    message: RevokeSessionRequest,
) -> Result<RevokeSessionResponse, Error> {
    let account = caller.principal()?.account;
    let id: SessionId = ids::required("session_id", &message.session_id)?;
    context
        .acting(caller)
        .revoke_session(account, id, "revoked")
        .await?;
    context.standings.forget_session(account, id).await;
    Ok(RevokeSessionResponse {})
}

pub(crate) async fn revoke_others(
    context: &Context,
    caller: &Caller,
    _message: RevokeOtherSessionsRequest,
) -> Result<RevokeOtherSessionsResponse, Error> {
    let principal = caller.principal()?;
    let ended = context
        .acting(caller)
        .revoke_other_sessions(principal.account, principal.session(), "revoked")
        .await?;
    let forgotten = context.standings.forget_sessions(principal.account, &ended);
    forgotten.await;
    Ok(RevokeOtherSessionsResponse {
        revoked_count: i32::try_from(ended.len()).unwrap_or(i32::MAX),
    })
}

fn shown(session: store::Session, current: Option<SessionId>) -> Session {
    Session {
        current: current == Some(session.id),
        id: session.id.to_string(),
        user_agent: session.user_agent,
        address: session.address,
        create_time: Some(time::timestamp(session.created_at_ms)),
        last_use_time: Some(time::timestamp(session.used_at_ms)),
        expire_time: Some(time::timestamp(session.expires_at_ms)),
    }
}
