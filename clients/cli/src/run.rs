//! Doing what a verb of the tables says: its request is made from the arguments, names are looked
//! up, pages follow each other, and the answer is shown.

use std::time::Duration;

use clap::ArgMatches;
use jiff::Timestamp;
use prost_reflect::{FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::connection::{Connection, json_of};
use crate::failure::Failure;
use crate::nouns::{Kind, Resource, Scope, Verb};
use crate::output::{self, Format};
use crate::{dynamic, input, units};

const PAGE: u32 = 500;
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// The field of an answer that is a list of resources, if it is one.
pub(crate) fn list_field(answer: &MessageDescriptor) -> Option<FieldDescriptor> {
    answer
        .fields()
        .find(|f| f.is_list() && matches!(f.kind(), FieldKind::Message(_)))
}

pub(crate) async fn verb(
    connection: &Connection,
    verb: &Verb,
    args: &ArgMatches,
    format: Format,
) -> Result<(), Failure> {
    let request = request(connection, verb, args).await?;
    loop {
        let shown = answer(connection, verb, args, request.clone()).await?;
        output::show(format, &shown, verb.columns)?;
        if !args.get_flag("watch") {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
        output::text("\n")?;
    }
}

async fn request(
    connection: &Connection,
    verb: &Verb,
    args: &ArgMatches,
) -> Result<Value, Failure> {
    let mut request = json!({});
    let tenant = match verb.scope {
        Scope::Platform => None,
        Scope::Either => match &connection.tenant {
            Some(_) => Some(tenant(connection).await?),
            None => None,
        },
        Scope::Tenant(_) => Some(tenant(connection).await?),
    };
    if let Some(id) = &tenant {
        let path = match verb.scope {
            Scope::Tenant(path) => path,
            _ => "tenantId",
        };
        put(&mut request, path, id.clone().into());
    }
    let mut changed = Vec::new();
    for arg in verb.args {
        let value = if arg.kind == Kind::Flag {
            args.get_flag(arg.name).then(|| true.into())
        } else {
            match args.get_one::<String>(arg.name) {
                Some(text) => Some(value(connection, arg.kind, text, tenant.as_deref()).await?),
                None => None,
            }
        };
        let Some(value) = value else { continue };
        put(&mut request, arg.field, value);
        if let Some((_, field)) = arg.field.split_once('.')
            && field != "id"
        {
            changed.push(field);
        }
    }
    let input = dynamic::method(verb.method)?.input();
    if input.get_field_by_json_name("updateMask").is_some() {
        if changed.is_empty() {
            return Err(Failure::Usage(
                "say what is to be changed; see --help".into(),
            ));
        }
        put(&mut request, "updateMask", changed.join(",").into());
    }
    // A repetition of it, by the transport or by hand, does nothing twice.
    if input.get_field_by_json_name("requestId").is_some() {
        put(
            &mut request,
            "requestId",
            vpnpanel_client::new_request_id().into(),
        );
    }
    Ok(request)
}

async fn value(
    connection: &Connection,
    kind: Kind,
    text: &str,
    tenant: Option<&str>,
) -> Result<Value, Failure> {
    let now = Timestamp::now();
    Ok(match kind {
        Kind::Text | Kind::Flag => text.into(),
        Kind::Number => text
            .parse::<u32>()
            .map_err(|_| Failure::Usage(format!("{text:?} is no number")))?
            .into(),
        Kind::Bytes => units::bytes(text)
            .map_err(Failure::Usage)?
            .to_string()
            .into(),
        Kind::Until => units::moment(text, now, false)
            .map_err(Failure::Usage)?
            .into(),
        Kind::Since => units::moment(text, now, true)
            .map_err(Failure::Usage)?
            .into(),
        Kind::Span => format!("{}s", units::seconds(text).map_err(Failure::Usage)?).into(),
        Kind::Enum(prefix) => {
            let name = text.to_ascii_uppercase().replace('-', "_");
            format!("{prefix}_{name}").into()
        }
        Kind::Json => input::json(text)?,
        Kind::Of(resource) => look_up(connection, resource, text, tenant).await?.into(),
        Kind::Several(resource) => {
            let mut ids = Vec::new();
            for name in text.split(',').filter(|name| !name.is_empty()) {
                ids.push(look_up(connection, resource, name, tenant).await?);
            }
            ids.into()
        }
    })
}

fn put(request: &mut Value, path: &str, value: Value) {
    let mut at = request;
    for name in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[name];
    }
    *at = value;
}

/// The tenant that is named, or the only one that there is.
pub(crate) async fn tenant(connection: &Connection) -> Result<String, Failure> {
    if let Some(name) = &connection.tenant {
        return look_up(connection, Resource::Tenant, name, None).await;
    }
    let me = connection
        .one("vpnpanel.auth.v1.AuthService/GetMe", json!({}))
        .await?;
    let ids = me["memberships"].as_array().into_iter().flatten();
    let mut ids: Vec<String> = ids
        .filter_map(|m| m["tenantId"].as_str())
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect();
    if ids.is_empty() {
        let (method, field, _) = Resource::Tenant.list();
        let page = connection.one(method, json!({"pageSize": 2})).await?;
        ids = page[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tenant| tenant["id"].as_str().map(str::to_owned))
            .collect();
    }
    ids.dedup();
    match ids.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(Failure::Usage(
            "say which tenant: --tenant NAME, or `vpnctl context set-tenant NAME`".into(),
        )),
    }
}

/// The id of a resource that is named by its id or its name.
pub(crate) async fn look_up(
    connection: &Connection,
    resource: Resource,
    name: &str,
    tenant: Option<&str>,
) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(name).is_ok() {
        return Ok(name.to_owned());
    }
    let (method, list, field) = resource.list();
    // Inbounds that tenants may use are the platform's or their own.
    let tenants: &[Option<&str>] = match (resource, tenant) {
        (Resource::Tenant, _) => &[None],
        (Resource::Inbound, Some(_)) => &[tenant, None],
        _ => &[tenant],
    };
    for tenant in tenants {
        let mut request = json!({"pageSize": PAGE});
        if let Some(id) = tenant {
            request["tenantId"] = (*id).into();
        }
        if resource == Resource::User {
            request["usernamePrefix"] = name.into();
        }
        loop {
            let page = connection.one(method, request.clone()).await?;
            let items = page[list].as_array().into_iter().flatten();
            let mut found = items.filter(|item| item[field] == name);
            if let Some(id) = found.next().and_then(|item| item["id"].as_str()) {
                if found.next().is_some() {
                    return Err(Failure::Usage(format!(
                        "several are named {name:?}: use the id"
                    )));
                }
                return Ok(id.to_owned());
            }
            match page["nextPageToken"].as_str() {
                Some(next) if !next.is_empty() => request["pageToken"] = next.into(),
                _ => break,
            }
        }
    }
    let status = tonic::Status::not_found(format!("there is no {field} {name:?} among {list}"));
    Err(status.into())
}

/// What is shown of the answer: all pages of a list up to its limit, or the one resource.
async fn answer(
    connection: &Connection,
    verb: &Verb,
    args: &ArgMatches,
    mut request: Value,
) -> Result<Value, Failure> {
    if !verb.rows.is_empty() {
        let mut shown = one(connection, verb, request).await?;
        let names = verb.rows.split('.');
        return Ok(names.fold(&mut shown, |at, name| &mut at[name]).take());
    }
    let method = dynamic::method(verb.method)?;
    let list = list_field(&method.output()).filter(|_| !verb.columns.is_empty());
    let Some(list) = list else {
        let mut shown = one(connection, verb, request).await?;
        // A response that wraps one resource is shown as the resource.
        if let Value::Object(fields) = &mut shown
            && fields.len() == 1
            && let Some(value) = fields.values_mut().next()
            && value.is_object()
        {
            return Ok(value.take());
        }
        return Ok(shown);
    };
    let limit = *args.get_one::<u32>("limit").unwrap_or(&100) as usize;
    let paged = method.input().get_field_by_json_name("pageSize").is_some();
    let mut items: Vec<Value> = Vec::new();
    loop {
        if paged {
            request["pageSize"] = (limit - items.len()).min(PAGE as usize).into();
        }
        let mut page = one(connection, verb, request.clone()).await?;
        if let Value::Array(more) = page[list.json_name()].take() {
            items.extend(more);
        }
        let next = page["nextPageToken"].as_str().unwrap_or_default();
        if next.is_empty() {
            break;
        }
        if items.len() >= limit {
            output::note("there are more: see --limit");
            break;
        }
        request["pageToken"] = next.into();
    }
    items.truncate(limit);
    Ok(Value::Array(items))
}

async fn one(connection: &Connection, verb: &Verb, request: Value) -> Result<Value, Failure> {
    let mut shown = Value::Null;
    connection
        .each(verb.method, request, |message| {
            shown = json_of(&message)?;
            if !verb.secrets {
                vpnpanel_api::redact(&dynamic::method(verb.method)?.output(), &mut shown);
            }
            Ok(())
        })
        .await?;
    Ok(shown)
}
