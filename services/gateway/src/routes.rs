//! Finds the method a request is for: a trie over path segments, compiled once. Literals win over
//! `*`, `*` over `**`, and a branch that knows the path but not the HTTP method is remembered for
//! the 405 answer while the search goes on.

use std::borrow::Cow;
use std::collections::HashMap;

use http::Method;

use crate::template::{Capture, Segment, Template};

/// Longer paths belong to no route; the bound keeps the per-request work small.
const MAX_SEGMENTS: usize = 64;

/// A table from (HTTP method, path) to a route's index.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, usize>,
    any: Option<usize>,
    /// Templates that end here.
    ends: Vec<End>,
    /// Templates that end in `**` here.
    rest_ends: Vec<End>,
}

#[derive(Debug)]
struct End {
    verb: Option<Box<str>>,
    method: Method,
    route: usize,
}

/// The outcome of a look-up.
#[derive(Debug)]
pub(crate) enum Lookup<'p> {
    Found {
        route: usize,
        path: SplitPath<'p>,
    },
    /// The path exists, for these methods.
    WrongMethod(Vec<Method>),
    NotFound,
    /// A percent-encoding that is none, or that does not decode to UTF-8.
    Malformed,
}

/// A request path, split at its slashes, without the verb.
#[derive(Debug)]
pub(crate) struct SplitPath<'p> {
    raw: Vec<&'p str>,
}

/// Two routes with one HTTP method and one path shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) existing: usize,
}

impl RouteTable {
    /// Adds a route under its method and template.
    pub(crate) fn insert(
        &mut self,
        method: Method,
        template: &Template,
        route: usize,
    ) -> Result<(), Conflict> {
        let mut at = self.root();
        let mut rest = false;
        for segment in &template.segments {
            match segment {
                Segment::Literal(text) => {
                    at = match self.nodes[at].literals.get(text) {
                        Some(next) => *next,
                        None => {
                            let next = self.push();
                            self.nodes[at].literals.insert(text.clone(), next);
                            next
                        }
                    };
                }
                Segment::Any => {
                    at = match self.nodes[at].any {
                        Some(next) => next,
                        None => {
                            let next = self.push();
                            self.nodes[at].any = Some(next);
                            next
                        }
                    };
                }
                Segment::Rest => rest = true,
            }
        }
        let node = &mut self.nodes[at];
        let ends = if rest {
            &mut node.rest_ends
        } else {
            &mut node.ends
        };
        if let Some(end) = ends
            .iter()
            .find(|e| e.method == method && e.verb == template.verb)
        {
            return Err(Conflict {
                existing: end.route,
            });
        }
        ends.push(End {
            verb: template.verb.clone(),
            method,
            route,
        });
        Ok(())
    }

    /// Finds the route for a raw (still percent-encoded) request path.
    pub(crate) fn find<'p>(&self, method: &Method, path: &'p str) -> Lookup<'p> {
        let Some(path) = path.strip_prefix('/') else {
            return Lookup::NotFound;
        };
        if self.nodes.is_empty() || path.bytes().filter(|b| *b == b'/').count() >= MAX_SEGMENTS {
            return Lookup::NotFound;
        }
        let mut raw: Vec<&'p str> = path.split('/').collect();
        let Some(decoded) = raw
            .iter()
            .map(|s| percent_decode(s))
            .collect::<Option<Vec<_>>>()
        else {
            return Lookup::Malformed;
        };

        let mut allowed = Vec::new();
        let last = raw.len() - 1;
        // A verb is cut at a colon that is not percent-encoded: an id may contain `%3A`.
        if let Some((head, verb)) = raw[last].rsplit_once(':') {
            let mut trimmed = decoded.clone();
            if let Some(head) = percent_decode(head) {
                trimmed[last] = head;
                let mut search = Search {
                    table: self,
                    method,
                    verb: Some(verb),
                    allowed,
                };
                if let Some(route) = search.descend(0, &trimmed) {
                    raw[last] = head_of(raw[last], verb);
                    return Lookup::Found {
                        route,
                        path: SplitPath { raw },
                    };
                }
                allowed = search.allowed;
            }
        }
        let mut search = Search {
            table: self,
            method,
            verb: None,
            allowed,
        };
        if let Some(route) = search.descend(0, &decoded) {
            return Lookup::Found {
                route,
                path: SplitPath { raw },
            };
        }
        if search.allowed.is_empty() {
            return Lookup::NotFound;
        }
        let mut allowed = search.allowed;
        allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allowed.dedup();
        Lookup::WrongMethod(allowed)
    }

    fn root(&mut self) -> usize {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        0
    }

    fn push(&mut self) -> usize {
        self.nodes.push(Node::default());
        self.nodes.len() - 1
    }
}

impl SplitPath<'_> {
    /// The text of a captured value. `None` if it cannot be decoded.
    pub(crate) fn value(&self, capture: &Capture) -> Option<String> {
        let end = capture.end.unwrap_or(self.raw.len()).min(self.raw.len());
        let segments = self.raw.get(capture.start..end)?;
        if capture.is_single_segment() {
            return segments
                .first()
                .and_then(|s| percent_decode(s))
                .map(Cow::into_owned);
        }
        let mut value = String::new();
        for (i, segment) in segments.iter().enumerate() {
            if i > 0 {
                value.push('/');
            }
            value.push_str(&decode(segment, true)?);
        }
        Some(value)
    }
}

/// Decodes `%XX`. `None` when an escape is malformed or the result is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    decode(text, false)
}

struct Search<'a> {
    table: &'a RouteTable,
    method: &'a Method,
    verb: Option<&'a str>,
    allowed: Vec<Method>,
}

impl Search<'_> {
    /// Visits each node of the trie at most once per depth, so the work is bounded by its size.
    fn descend(&mut self, node: usize, segments: &[Cow<'_, str>]) -> Option<usize> {
        let table = self.table;
        let node = &table.nodes[node];
        match segments.split_first() {
            None => {
                if let Some(route) = self.pick(&node.ends) {
                    return Some(route);
                }
            }
            Some((first, rest)) => {
                if let Some(next) = node.literals.get(first.as_ref())
                    && let Some(route) = self.descend(*next, rest)
                {
                    return Some(route);
                }
                if let Some(next) = node.any
                    && !first.is_empty()
                    && let Some(route) = self.descend(next, rest)
                {
                    return Some(route);
                }
            }
        }
        self.pick(&node.rest_ends)
    }

    fn pick(&mut self, ends: &[End]) -> Option<usize> {
        let mut found = None;
        for end in ends.iter().filter(|e| e.verb.as_deref() == self.verb) {
            if end.method == *self.method {
                found = Some(end.route);
            } else {
                self.allowed.push(end.method.clone());
            }
        }
        found
    }
}

fn head_of<'p>(segment: &'p str, verb: &str) -> &'p str {
    &segment[..segment.len() - verb.len() - 1]
}

fn decode(text: &str, keep_slash: bool) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let value = hex(*bytes.get(at + 1)?)? << 4 | hex(*bytes.get(at + 2)?)?;
        if keep_slash && value == b'/' {
            out.extend_from_slice(&bytes[at..at + 3]);
        } else {
            out.push(value);
        }
        at += 3;
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        table: RouteTable,
        templates: Vec<Template>,
    }

    fn table(routes: &[(Method, &str)]) -> Fixture {
        let mut table = RouteTable::default();
        let mut templates = Vec::new();
        for (i, (method, text)) in routes.iter().enumerate() {
            let template = Template::parse(text).unwrap();
            table.insert(method.clone(), &template, i).unwrap();
            templates.push(template);
        }
        Fixture { table, templates }
    }

    impl Fixture {
        /// The route's index and its captured values.
        fn get(&self, path: &str) -> Option<(usize, Vec<String>)> {
            match self.table.find(&Method::GET, path) {
                Lookup::Found { route, path } => {
                    let captures = &self.templates[route].captures;
                    Some((
                        route,
                        captures.iter().map(|c| path.value(c).unwrap()).collect(),
                    ))
                }
                _ => None,
            }
        }
    }

    fn found(route: usize, values: &[&str]) -> Option<(usize, Vec<String>)> {
        Some((route, values.iter().map(|v| (*v).to_owned()).collect()))
    }

    #[test]
    fn literals_win_over_wildcards_and_wildcards_over_the_rest() {
        let t = table(&[
            (Method::GET, "/v1/users/{id}"),
            (Method::GET, "/v1/users/me"),
            (Method::GET, "/v1/{path=**}"),
            (Method::GET, "/v1/users/{id}/devices/{device}"),
        ]);
        assert_eq!(t.get("/v1/users/me"), found(1, &[]));
        assert_eq!(t.get("/v1/users/7"), found(0, &["7"]));
        assert_eq!(t.get("/v1/users/me/devices/3"), found(3, &["me", "3"]));
        assert_eq!(t.get("/v1/users/me/other"), found(2, &["users/me/other"]));
        assert_eq!(t.get("/v1"), found(2, &[""]));
        assert_eq!(t.get("/v2"), None);
    }

    #[test]
    fn a_trailing_or_doubled_slash_is_another_path() {
        let t = table(&[
            (Method::GET, "/v1/users"),
            (Method::GET, "/v1/users/{id}/x"),
        ]);
        for path in [
            "/v1/users/",
            "//v1/users",
            "/v1//users",
            "/v1/users//x",
            "",
            "/",
            "v1/users",
        ] {
            assert_eq!(t.get(path), None, "{path}");
        }
    }

    #[test]
    fn a_verb_is_cut_at_the_last_plain_colon() {
        let t = table(&[
            (Method::GET, "/v1/users/{id}"),
            (Method::GET, "/v1/users/{id}:usage"),
            (Method::GET, "/v1/users:watch"),
        ]);
        assert_eq!(t.get("/v1/users/7:usage"), found(1, &["7"]));
        assert_eq!(t.get("/v1/users/a:b:usage"), found(1, &["a:b"]));
        assert_eq!(t.get("/v1/users/7%3Ausage"), found(0, &["7:usage"]));
        assert_eq!(t.get("/v1/users:watch"), found(2, &[]));
        // Not a verb anybody declared: part of the id.
        assert_eq!(t.get("/v1/users/7:other"), found(0, &["7:other"]));
        assert_eq!(t.get("/v1/users/:usage"), found(0, &[":usage"]));
    }

    #[test]
    fn percent_encoding_is_undone_once_and_an_encoded_slash_does_not_split() {
        let t = table(&[
            (Method::GET, "/a/{x}/z"),
            (Method::GET, "/f/{p=**}"),
            (Method::GET, "/é"),
        ]);
        assert_eq!(t.get("/a/b%2Fc/z"), found(0, &["b/c"]));
        assert_eq!(t.get("/a/%2561/z"), found(0, &["%61"]));
        assert_eq!(t.get("/f/b%2Fc/%20d"), found(1, &["b%2Fc/ d"]));
        assert_eq!(t.get("/%C3%A9"), found(2, &[]));
        for malformed in ["/a/%/z", "/a/%2/z", "/a/%zz/z", "/a/%ff/z", "/a/%é/z"] {
            assert!(
                matches!(t.table.find(&Method::GET, malformed), Lookup::Malformed),
                "{malformed}"
            );
        }
    }

    #[test]
    fn another_method_of_a_known_path_names_the_allowed_ones() {
        let t = table(&[
            (Method::GET, "/v1/users/{id}"),
            (Method::DELETE, "/v1/users/{id}"),
            (Method::PATCH, "/v1/users/me"),
            (Method::POST, "/v1/users/{id}:disable"),
        ]);
        let allowed = |method, path| match t.table.find(&method, path) {
            Lookup::WrongMethod(allowed) => allowed,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            allowed(Method::PUT, "/v1/users/7"),
            [Method::DELETE, Method::GET]
        );
        // `me` is also an id, so the methods of both templates are open to it.
        assert_eq!(t.get("/v1/users/me"), found(0, &["me"]));
        assert_eq!(
            allowed(Method::PUT, "/v1/users/me"),
            [Method::DELETE, Method::GET, Method::PATCH]
        );
    }

    #[test]
    fn two_routes_of_one_shape_conflict() {
        let mut t = table(&[(Method::GET, "/v1/users/{id}")]);
        let same = Template::parse("/v1/users/{name}").unwrap();
        assert_eq!(
            t.table.insert(Method::GET, &same, 9),
            Err(Conflict { existing: 0 })
        );
        assert_eq!(t.table.insert(Method::PUT, &same, 9), Ok(()));
    }

    #[test]
    fn a_very_deep_path_is_not_searched() {
        let t = table(&[(Method::GET, "/f/{p=**}")]);
        assert_eq!(t.get(&format!("/f{}", "/x".repeat(100_000))), None);
    }
}
