//! How a way to connect is presented to people and to their programs: names made of patterns with
//! variables, and what a client imitates and offers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a pattern of a name can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameVariable {
    /// The user's name.
    User,
    /// Whole days of the user's time that are left.
    DaysLeft,
    /// Bytes that are left of the user's limit, in a human unit.
    DataLeft,
    /// The node's name.
    Node,
    /// The flag of the country the node is in.
    Flag,
    /// The inbound's name.
    Inbound,
    /// The protocol.
    Protocol,
    /// The user's status.
    Status,
}

impl NameVariable {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::DaysLeft,
        Self::DataLeft,
        Self::Node,
        Self::Flag,
        Self::Inbound,
        Self::Protocol,
        Self::Status,
    ];

    /// The name between the braces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::DaysLeft => "days_left",
            Self::DataLeft => "data_left",
            Self::Node => "node",
            Self::Flag => "flag",
            Self::Inbound => "inbound",
            Self::Protocol => "protocol",
            Self::Status => "status",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// A pattern of a name: text, and variables in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(NameVariable),
}

/// Why a text is no pattern of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamePatternError {
    /// A name in braces that no variable has.
    #[error("has no variable {{{0}}}; there are {known}", known = known())]
    Unknown(String),
    /// A brace that belongs to no other.
    #[error("has a brace without its other half: braces hold a variable, as in {{user}}")]
    Brace,
    /// A character that no name may hold.
    #[error("must not hold control characters")]
    Control,
    /// Nothing.
    #[error("must not be empty")]
    Empty,
}

/// Every variable in its braces.
fn known() -> String {
    let names: Vec<String> = NameVariable::ALL
        .iter()
        .map(|it| format!("{{{}}}", it.name()))
        .collect();
    names.join(", ")
}

impl NamePattern {
    /// Inbound and node: what connections are called where nobody says otherwise.
    pub const DEFAULT: &'static str = "{inbound}-{node}";

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name, on one line. Values are text and nothing else: braces in them mean nothing.
    pub fn render(&self, value: impl Fn(NameVariable) -> String) -> String {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Variable(variable) => {
                    name.extend(value(*variable).chars().filter(|c| !c.is_control()));
                }
            }
        }
        name.trim().to_owned()
    }
}

impl FromStr for NamePattern {
    type Err = NamePatternError;

    fn from_str(text: &str) -> Result<Self, NamePatternError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NamePatternError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(NamePatternError::Control);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (plain, from) = rest.split_at(at);
            let inner = from.strip_prefix('{').ok_or(NamePatternError::Brace)?;
            let (name, behind) = inner.split_once('}').ok_or(NamePatternError::Brace)?;
            if name.contains('{') {
                return Err(NamePatternError::Brace);
            }
            if !plain.is_empty() {
                parts.push(Part::Text(plain.to_owned()));
            }
            let variable = NameVariable::named(name)
                .ok_or_else(|| NamePatternError::Unknown(name.to_owned()))?;
            parts.push(Part::Variable(variable));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whose first message of TLS a client imitates (uTLS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fingerprint {
    /// The most common browser.
    #[default]
    Chrome,
    /// Firefox.
    Firefox,
    /// Safari.
    Safari,
    /// Safari of iOS.
    Ios,
    /// Android's own.
    Android,
    /// Edge.
    Edge,
    /// One of them, as the client likes.
    Random,
}

impl Fingerprint {
    /// The name by which Xray, sing-box and mihomo know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chrome => "chrome",
            Self::Firefox => "firefox",
            Self::Safari => "safari",
            Self::Ios => "ios",
            Self::Android => "android",
            Self::Edge => "edge",
            Self::Random => "random",
        }
    }
}

/// A protocol that a client offers in TLS (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Alpn {
    /// HTTP/2.
    #[serde(rename = "h2")]
    H2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
}

impl Alpn {
    /// The registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Http11 => "http/1.1",
        }
    }

    /// By the registered name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::H2, Self::Http11]
            .into_iter()
            .find(|it| it.name() == name)
    }
}

/// Countries by ISO 3166-1 alpha-2, with the two codes beside it that flags have: EU, and XK for Kosovo.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ \
    BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE \
    DJ DK DM DO DZ EC EE EG EH ER ES ET EU FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ \
    GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN \
    KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS \
    MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT \
    PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF \
    TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA \
    ZM ZW";

/// The flag of the country whose code a node's region begins with, as in "de" and "US-east-1";
/// `None` where it begins with another word.
pub fn country_flag(region: &str) -> Option<String> {
    let code = region
        .trim()
        .split(|c: char| !c.is_ascii_alphabetic())
        .next()?
        .to_ascii_uppercase();
    // A word of two letters that is followed by a letter of another alphabet is none.
    let is_whole = region
        .trim()
        .chars()
        .nth(code.len())
        .is_none_or(|c| !c.is_alphanumeric());
    if code.len() != 2 || !is_whole || !COUNTRIES.split(' ').any(|it| it == code) {
        return None;
    }
    code.bytes()
        .map(|letter| char::from_u32(0x1F1E6 + u32::from(letter - b'A')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(variable: NameVariable) -> String {
        format!("<{}>", variable.name())
    }

    #[test]
    fn a_name_is_the_text_with_the_values_of_its_variables() {
        let pattern: NamePattern = " {flag} {node} · {user}{days_left} ".parse().unwrap();
        assert_eq!(pattern.as_str(), "{flag} {node} · {user}{days_left}");
        assert_eq!(pattern.render(value), "<flag> <node> · <user><days_left>");
        let every = known().parse::<NamePattern>().unwrap().render(value);
        assert!(
            NameVariable::ALL
                .iter()
                .all(|it| every.contains(&value(*it)))
        );
        let plain: NamePattern = "Berlin".parse().unwrap();
        assert_eq!(plain.render(value), "Berlin");
    }

    #[test]
    fn a_value_is_text_alone_and_stays_on_its_line() {
        let pattern: NamePattern = "{user} {node}".parse().unwrap();
        let name = pattern.render(|variable| match variable {
            NameVariable::User => "{status}\r\n\u{0}".to_owned(),
            _ => String::new(),
        });
        assert_eq!(name, "{status}");
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_variables_there_are() {
        let refused = |text: &str| text.parse::<NamePattern>().unwrap_err();
        let error = refused("{user} {usr}");
        assert_eq!(error, NamePatternError::Unknown("usr".to_owned()));
        assert!(error.to_string().contains("{usr}"), "{error}");
        for variable in NameVariable::ALL {
            let name = format!("{{{}}}", variable.name());
            assert!(error.to_string().contains(&name), "{error}");
        }
        for text in ["{}", "{User}", "{ user }"] {
            assert!(
                matches!(refused(text), NamePatternError::Unknown(_)),
                "{text}"
            );
        }
        for text in ["{user", "user}", "{{user}}", "a{b{user}", "{user}}"] {
            assert_eq!(refused(text), NamePatternError::Brace, "{text}");
        }
        assert_eq!(refused("a\nb"), NamePatternError::Control);
        assert_eq!(refused("  "), NamePatternError::Empty);
    }

    #[test]
    fn a_region_that_begins_with_a_country_has_its_flag() {
        for region in ["de", "DE-fra", " de frankfurt", "de_1"] {
            assert_eq!(country_flag(region).as_deref(), Some("🇩🇪"), "{region}");
        }
        assert_eq!(country_flag("eu-central").as_deref(), Some("🇪🇺"));
        for region in [
            "",
            "frankfurt",
            "ap-south",
            "d",
            "deu",
            "deü",
            "de1",
            "1de",
            "-de",
        ] {
            assert_eq!(country_flag(region), None, "{region}");
        }
    }
}
