//! Path templates of `google.api.http` (the grammar in google/api/http.proto), parsed once at
//! start-up. A template says which segments a path must have and which of them are field values.

use std::fmt;

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Matches exactly this text.
    Literal(Box<str>),
    /// `*`: one non-empty segment.
    Any,
    /// `**`: the rest of the path, possibly nothing. Only ever the last segment.
    Rest,
}

/// The segments that make up the value of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capture {
    /// Field names from the request message downwards, as written in the template.
    pub(crate) field_path: Vec<String>,
    /// First segment of the value.
    pub(crate) start: usize,
    /// One past the last segment; `None` when the value reaches to the end of the path (`**`).
    pub(crate) end: Option<usize>,
}

impl Capture {
    /// Whether the value is one plain segment, which is percent-decoded in full. In a value of
    /// several segments an encoded slash stays encoded (http.proto, "path template syntax").
    pub(crate) fn is_single_segment(&self) -> bool {
        self.end == Some(self.start + 1)
    }
}

/// A parsed path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) segments: Vec<Segment>,
    pub(crate) captures: Vec<Capture>,
    /// The custom verb after the last `:`, e.g. `disable`.
    pub(crate) verb: Option<Box<str>>,
}

/// Why a template is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path template {template:?}: {problem} at byte {offset}")]
pub struct TemplateError {
    template: String,
    problem: &'static str,
    offset: usize,
}

impl Template {
    /// Parses `text` by the grammar of google/api/http.proto:
    ///
    /// ```text
    /// Template = "/" Segments [ Verb ] ;
    /// Segments = Segment { "/" Segment } ;
    /// Segment  = "*" | "**" | LITERAL | Variable ;
    /// Variable = "{" FieldPath [ "=" Segments ] "}" ;
    /// Verb     = ":" LITERAL ;
    /// ```
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parser = Parser {
            text,
            at: 0,
            out: Template {
                segments: Vec::new(),
                captures: Vec::new(),
                verb: None,
            },
        };
        parser.expect('/')?;
        parser.segments(true)?;
        if parser.eat(':') {
            parser.out.verb = Some(parser.literal()?.into());
        }
        if parser.at != text.len() {
            return Err(parser.problem("unexpected character"));
        }
        let rest = parser.out.segments.iter().position(|s| *s == Segment::Rest);
        if rest.is_some_and(|i| i + 1 != parser.out.segments.len()) {
            return Err(parser.problem("`**` must be the last segment"));
        }
        Ok(parser.out)
    }
}

impl fmt::Display for Template {
    /// The template with its captures as plain `{field}` names, as OpenAPI and metrics want it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        while at < self.segments.len() {
            f.write_str("/")?;
            let Some(capture) = self.captures.iter().find(|c| c.start == at) else {
                match &self.segments[at] {
                    Segment::Literal(text) => f.write_str(text)?,
                    Segment::Any => f.write_str("*")?,
                    Segment::Rest => f.write_str("**")?,
                }
                at += 1;
                continue;
            };
            // `{name=users/*}` keeps its literals outside the braces: `users/{name}`.
            let end = capture.end.unwrap_or(self.segments.len());
            for (i, segment) in self.segments[at..end].iter().enumerate() {
                if i > 0 {
                    f.write_str("/")?;
                }
                match segment {
                    Segment::Literal(text) => f.write_str(text)?,
                    Segment::Any | Segment::Rest => {
                        write!(f, "{{{}}}", capture.field_path.join("."))?;
                    }
                }
            }
            at = end;
        }
        if let Some(verb) = &self.verb {
            write!(f, ":{verb}")?;
        }
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    out: Template,
}

impl Parser<'_> {
    fn segments(&mut self, variables: bool) -> Result<(), TemplateError> {
        loop {
            self.segment(variables)?;
            if !self.eat('/') {
                return Ok(());
            }
        }
    }

    fn segment(&mut self, variables: bool) -> Result<(), TemplateError> {
        if self.eat('*') {
            let segment = if self.eat('*') {
                Segment::Rest
            } else {
                Segment::Any
            };
            self.out.segments.push(segment);
            return Ok(());
        }
        if self.peek() == Some('{') {
            if !variables {
                return Err(self.problem("a variable inside a variable"));
            }
            return self.variable();
        }
        let literal = self.literal()?.into();
        self.out.segments.push(Segment::Literal(literal));
        Ok(())
    }

    fn variable(&mut self) -> Result<(), TemplateError> {
        self.expect('{')?;
        let mut field_path = Vec::new();
        loop {
            field_path.push(self.identifier()?);
            if !self.eat('.') {
                break;
            }
        }
        let start = self.out.segments.len();
        if self.eat('=') {
            self.segments(false)?;
        } else {
            self.out.segments.push(Segment::Any);
        }
        self.expect('}')?;
        let open_ended = self.out.segments.last() == Some(&Segment::Rest);
        let end = (!open_ended).then_some(self.out.segments.len());
        if self.out.captures.iter().any(|c| c.field_path == field_path) {
            return Err(self.problem("the same field twice"));
        }
        self.out.captures.push(Capture {
            field_path,
            start,
            end,
        });
        Ok(())
    }

    fn identifier(&mut self) -> Result<String, TemplateError> {
        let rest = &self.text[self.at..];
        let len = rest
            .bytes()
            .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
            .count();
        if len == 0 {
            return Err(self.problem("expected a field name"));
        }
        self.at += len;
        Ok(rest[..len].to_owned())
    }

    fn literal(&mut self) -> Result<&str, TemplateError> {
        let start = self.at;
        let len = self.text[start..].find(['/', '{', '}', '*', ':', '=']);
        let len = len.unwrap_or(self.text.len() - start);
        if len == 0 {
            return Err(self.problem("expected a segment"));
        }
        self.at += len;
        Ok(&self.text[start..start + len])
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), TemplateError> {
        if self.eat(wanted) {
            return Ok(());
        }
        Err(self.problem(match wanted {
            '/' => "expected `/`",
            '{' => "expected `{`",
            _ => "expected `}`",
        }))
    }

    fn problem(&self, problem: &'static str) -> TemplateError {
        TemplateError {
            template: self.text.to_owned(),
            problem,
            offset: self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.into())
    }

    #[test]
    fn plain_fields_take_one_segment() {
        let template = Template::parse("/v1/tenants/{tenant_id}/users/{user.id}:disable").unwrap();
        assert_eq!(
            template.segments,
            [
                literal("v1"),
                literal("tenants"),
                Segment::Any,
                literal("users"),
                Segment::Any
            ]
        );
        assert_eq!(template.verb.as_deref(), Some("disable"));
        assert_eq!(template.captures[0].field_path, ["tenant_id"]);
        assert!(template.captures[0].is_single_segment());
        assert_eq!(template.captures[1].field_path, ["user", "id"]);
        assert_eq!(template.captures[1].start, 4);
        assert_eq!(
            template.to_string(),
            "/v1/tenants/{tenant_id}/users/{user.id}:disable"
        );
    }

    #[test]
    fn a_field_may_span_segments_and_the_rest() {
        let template = Template::parse("/v1/{name=shelves/*/books/*}").unwrap();
        assert_eq!(
            (template.captures[0].start, template.captures[0].end),
            (1, Some(5))
        );
        assert!(!template.captures[0].is_single_segment());

        let template = Template::parse("/files/{path=**}:raw").unwrap();
        assert_eq!(
            (template.captures[0].start, template.captures[0].end),
            (1, None)
        );
        assert_eq!(template.segments, [literal("files"), Segment::Rest]);
        assert_eq!(template.to_string(), "/files/{path}:raw");
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_place() {
        for bad in [
            "",
            "v1",
            "/",
            "/v1/",
            "//",
            "/v1/{",
            "/v1/{}",
            "/v1/{a",
            "/v1/{a=",
            "/v1/{a={b}}",
            "/v1/**/x",
            "/v1/{a=**}/x",
            "/v1/x:",
            "/v1/{a}/{a}",
            "/v1/x}y",
            "/v1/{a.}",
            "/v1:a:b",
        ] {
            let error = Template::parse(bad).unwrap_err();
            assert!(error.to_string().contains("at byte"), "{bad}: {error}");
        }
    }
}
