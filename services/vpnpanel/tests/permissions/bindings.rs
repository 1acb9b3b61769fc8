//! The REST bindings of the contract, read off the descriptor a second time: not by the gateway's
//! own reader, which is under test.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, MethodDescriptor, ReflectMessage, Value};
use serde_json::Value as Json;
use tonic::codegen::http::Method;
use vpnpanel_api::pool;

/// One HTTP method and path of a method.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) verb: Method,
    pub(crate) path: String,
    body: String,
}

/// A request of a binding.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) body: Bytes,
}

/// The descriptor of a method.
pub(crate) fn descriptor(method: &vpnpanel_api::Method) -> MethodDescriptor {
    let service = pool().get_service_by_name(method.service).unwrap();
    let mut methods = service.methods();
    methods.find(|it| it.name() == method.name).unwrap()
}

/// An option of a method or field, where it is set.
pub(crate) fn option(options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let extension = pool().get_extension_by_name(name).unwrap();
    let set = options.has_extension(&extension);
    set.then(|| options.get_extension(&extension).as_message().cloned())
        .flatten()
}

/// All bindings of a method, the first one first.
pub(crate) fn bindings(method: &MethodDescriptor) -> Vec<Binding> {
    let Some(rule) = option(&method.options(), "google.api.http") else {
        return Vec::new();
    };
    let more = rule.get_field_by_name("additional_bindings").unwrap();
    let more = more.as_list().unwrap_or_default();
    let mut found = vec![binding(&rule)];
    found.extend(more.iter().filter_map(Value::as_message).map(binding));
    found
}

fn binding(rule: &DynamicMessage) -> Binding {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name).unwrap();
        value.as_str().unwrap().to_owned()
    };
    let verbs = ["get", "put", "post", "delete", "patch"];
    let verb = verbs.iter().find(|verb| !text(verb).is_empty()).unwrap();
    Binding {
        verb: verb.to_uppercase().parse().unwrap(),
        path: text(verb),
        body: text("body"),
    }
}

impl Binding {
    /// The fields that the path gives.
    pub(crate) fn captures(&self) -> Vec<String> {
        let parts = self.path.split('{').skip(1);
        parts
            .map(|part| part.split_once('}').unwrap().0.to_owned())
            .collect()
    }

    /// A message as a request of this binding: each field in its one place.
    pub(crate) fn call(&self, message: &DynamicMessage) -> HttpRequest {
        let mut uri = self.path.clone();
        for field in self.captures() {
            let value = text_at(message, &field);
            assert!(!value.is_empty(), "{}: {field} is not set", self.path);
            uri = uri.replace(&format!("{{{field}}}"), &value);
        }
        let json = serde_json::to_value(message).unwrap();
        let name_in_json = |name: &str| {
            let field = message.descriptor().get_field_by_name(name).unwrap();
            field.json_name().to_owned()
        };
        let body = match self.body.as_str() {
            "" => Bytes::new(),
            "*" => json.to_string().into(),
            field => {
                let body = json.get(name_in_json(field));
                body.map_or("{}".to_owned(), Json::to_string).into()
            }
        };
        if self.body != "*" {
            let captures = self.captures();
            let elsewhere = |name: &str| captures.iter().any(|it| it == name) || name == self.body;
            let mut query: Vec<String> = Vec::new();
            for field in message.descriptor().fields() {
                if elsewhere(field.name()) || !message.has_field(&field) {
                    continue;
                }
                if let Some(text) = message.get_field(&field).as_str() {
                    query.push(format!("{}={text}", field.json_name()));
                }
            }
            if !query.is_empty() {
                uri = format!("{uri}?{}", query.join("&"));
            }
        }
        HttpRequest {
            method: self.verb.clone(),
            uri,
            body,
        }
    }
}

/// The text of a field, by its dotted path.
pub(crate) fn text_at(message: &DynamicMessage, path: &str) -> String {
    match path.split_once('.') {
        Some((outer, inner)) => {
            let value = message.get_field_by_name(outer).unwrap();
            text_at(value.as_message().unwrap(), inner)
        }
        None => {
            let value = message.get_field_by_name(path).unwrap();
            value.as_str().unwrap().to_owned()
        }
    }
}
