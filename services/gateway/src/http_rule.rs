//! Reads the REST bindings (`google.api.http`, method option 72295728) out of a descriptor pool
//! and checks each against the messages it names, so that a binding that cannot work stops the
//! gateway at start-up instead of failing a request.

use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    Value,
};

use crate::template::{Template, TemplateError};

/// Number of the `google.api.http` extension of `google.protobuf.MethodOptions`.
const HTTP_EXTENSION: u32 = 72_295_728;

/// Why the bindings of a pool cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// A template that does not parse.
    #[error("{method}: {source}")]
    Template {
        /// Full name of the method.
        method: String,
        /// What is wrong.
        source: TemplateError,
    },
    /// A rule without a method and path.
    #[error("{method}: the binding names no HTTP method and path")]
    NoPattern {
        /// Full name of the method.
        method: String,
    },
    /// A custom HTTP method that is not a token.
    #[error("{method}: {kind:?} is not an HTTP method")]
    HttpMethod {
        /// Full name of the method.
        method: String,
        /// What the rule says.
        kind: String,
    },
    /// A field that the message does not have, or that cannot be used in this place.
    #[error("{method}: {place} {field:?}: {problem}")]
    Field {
        /// Full name of the method.
        method: String,
        /// `path`, `body` or `response_body`.
        place: &'static str,
        /// The field path as written.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// REST cannot carry a stream from the client.
    #[error("{method}: a client-streaming method cannot have a REST binding")]
    ClientStreaming {
        /// Full name of the method.
        method: String,
    },
    /// Two bindings of one HTTP method and path shape.
    #[error("{http_method} {template} is bound by both {first} and {second}")]
    Conflict {
        /// The HTTP method.
        http_method: Method,
        /// The path shape.
        template: String,
        /// The binding that was there.
        first: String,
        /// The one that came.
        second: String,
    },
    /// The pool does not define the `google.api.http` option.
    #[error("the descriptor pool does not define google.api.http")]
    NoHttpOption,
}

/// Which part of the request message the HTTP body is.
#[derive(Debug, Clone)]
pub(crate) enum BodyRule {
    /// No body; everything else than the path comes from the query.
    None,
    /// The body is the whole message (`*`); there is no query.
    Whole,
    /// The body is one field.
    Field(FieldDescriptor),
}

/// One HTTP method and path of one gRPC method.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) method: MethodDescriptor,
    pub(crate) http_method: Method,
    pub(crate) template: Template,
    /// The fields of each capture of the template, from the request message downwards.
    pub(crate) path_fields: Vec<Vec<FieldDescriptor>>,
    pub(crate) body: BodyRule,
    /// The field of the response that is the HTTP body; the whole response if none.
    pub(crate) response_body: Option<FieldDescriptor>,
}

/// All bindings of a pool's services, in declaration order.
pub(crate) fn bindings(pool: &DescriptorPool) -> Result<Vec<Binding>, BindingError> {
    let extension = pool
        .get_message_by_name("google.protobuf.MethodOptions")
        .and_then(|options| options.get_extension(HTTP_EXTENSION))
        .ok_or(BindingError::NoHttpOption)?;
    let mut bindings = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&extension) {
                continue;
            }
            let rule = options.get_extension(&extension);
            let Some(rule) = rule.as_message() else {
                continue;
            };
            if method.is_client_streaming() {
                let method = method.full_name().to_owned();
                return Err(BindingError::ClientStreaming { method });
            }
            bindings.push(binding(&method, rule)?);
            let additional = rule.get_field_by_name("additional_bindings");
            for rule in additional.iter().filter_map(|v| v.as_list()).flatten() {
                if let Some(rule) = rule.as_message() {
                    bindings.push(binding(&method, rule)?);
                }
            }
        }
    }
    Ok(bindings)
}

fn binding(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Binding, BindingError> {
    let (http_method, path) = pattern(method, rule)?;
    let template = Template::parse(&path).map_err(|source| BindingError::Template {
        method: method.full_name().to_owned(),
        source,
    })?;
    let mut path_fields = Vec::with_capacity(template.captures.len());
    for capture in &template.captures {
        path_fields.push(path_field(method, &capture.field_path)?);
    }
    let body = match text(rule, "body").as_str() {
        "" => BodyRule::None,
        "*" => BodyRule::Whole,
        name => BodyRule::Field(top_level_field(method, &method.input(), "body", name)?),
    };
    let response_body = match text(rule, "response_body").as_str() {
        "" => None,
        name => Some(top_level_field(
            method,
            &method.output(),
            "response_body",
            name,
        )?),
    };
    Ok(Binding {
        method: method.clone(),
        http_method,
        template,
        path_fields,
        body,
        response_body,
    })
}

fn pattern(
    method: &MethodDescriptor,
    rule: &DynamicMessage,
) -> Result<(Method, String), BindingError> {
    for (name, http_method) in [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ] {
        let path = text(rule, name);
        if !path.is_empty() {
            return Ok((http_method, path));
        }
    }
    if let Some(Value::Message(custom)) = rule.get_field_by_name("custom").as_deref() {
        let (kind, path) = (text(custom, "kind"), text(custom, "path"));
        if !path.is_empty() {
            return match Method::from_bytes(kind.as_bytes()) {
                Ok(http_method) => Ok((http_method, path)),
                Err(_) => {
                    let method = method.full_name().to_owned();
                    Err(BindingError::HttpMethod { method, kind })
                }
            };
        }
    }
    Err(BindingError::NoPattern {
        method: method.full_name().to_owned(),
    })
}

fn path_field(
    method: &MethodDescriptor,
    names: &[String],
) -> Result<Vec<FieldDescriptor>, BindingError> {
    let refuse = |problem| BindingError::Field {
        method: method.full_name().to_owned(),
        place: "path",
        field: names.join("."),
        problem,
    };
    let mut message = Some(method.input());
    let mut fields = Vec::with_capacity(names.len());
    for name in names {
        let parent = message.ok_or_else(|| refuse("a scalar has no fields"))?;
        let field = parent
            .get_field_by_name(name)
            .ok_or_else(|| refuse("no such field"))?;
        if field.is_list() || field.is_map() {
            return Err(refuse("a repeated field cannot be part of a path"));
        }
        message = field.kind().as_message().cloned();
        fields.push(field);
    }
    if message.is_some_and(|m| !crate::json::read::has_text_form(&m)) {
        return Err(refuse("a message cannot be part of a path"));
    }
    Ok(fields)
}

fn top_level_field(
    method: &MethodDescriptor,
    message: &MessageDescriptor,
    place: &'static str,
    name: &str,
) -> Result<FieldDescriptor, BindingError> {
    let refuse = |problem| BindingError::Field {
        method: method.full_name().to_owned(),
        place,
        field: name.to_owned(),
        problem,
    };
    let field = message
        .get_field_by_name(name)
        .ok_or_else(|| refuse("no such field"))?;
    if place == "body" && !matches!(field.kind(), Kind::Message(_)) && !field.is_list() {
        return Err(refuse("only a message or a repeated field can be the body"));
    }
    Ok(field)
}

fn text(message: &DynamicMessage, field: &str) -> String {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    }
}
