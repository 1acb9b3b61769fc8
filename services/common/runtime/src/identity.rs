//! Who is at the other end of an mTLS connection. The only place that writes and reads the names
//! which the internal CA puts in certificates (SPIFFE-style URIs, and one DNS name each).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The name space of all identities of one installation, such as `vpnpanel.internal`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Used unless the settings say otherwise.
    pub const DEFAULT: &'static str = "vpnpanel.internal";

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    /// A lowercase DNS name (RFC 1035 labels), at most 150 characters, so that the names made
    /// from it stay within 253.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= 150 && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdentityError::TrustDomain)
        }
    }
}

/// A verified identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// A node agent. `tenant` is `None` for a shared (platform) node.
    Node {
        /// The owner of a dedicated node.
        tenant: Option<Uuid>,
        /// The node.
        node: Uuid,
    },
    /// A service of the control plane, by its name (`collector`, `control-api`, …).
    ControlPlane {
        /// The service's name.
        service: String,
    },
}

/// Why a name is not an identity of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a lowercase DNS name.
    #[error("expected a trust domain: a lowercase DNS name such as vpnpanel.internal")]
    TrustDomain,
    /// Not a `spiffe://` URI of the shapes documented on [`PeerIdentity::uri`].
    #[error("not an identity of this product")]
    Shape,
    /// An identity of another installation.
    #[error("identity of a foreign trust domain")]
    ForeignTrustDomain,
}

impl PeerIdentity {
    /// A control-plane service's identity.
    ///
    /// # Errors
    /// When `service` is not a DNS label.
    pub fn control_plane(service: &str) -> Result<Self, IdentityError> {
        if is_label(service) {
            Ok(Self::ControlPlane {
                service: service.to_owned(),
            })
        } else {
            Err(IdentityError::Shape)
        }
    }

    /// The URI SAN: `spiffe://<trust-domain>/shared/node/<id>`,
    /// `spiffe://<trust-domain>/tenant/<id>/node/<id>` or
    /// `spiffe://<trust-domain>/control-plane/<service>`.
    pub fn uri(&self, trust_domain: &TrustDomain) -> String {
        match self {
            Self::Node { tenant: None, node } => {
                format!("spiffe://{trust_domain}/shared/node/{node}")
            }
            Self::Node {
                tenant: Some(tenant),
                node,
            } => {
                format!("spiffe://{trust_domain}/tenant/{tenant}/node/{node}")
            }
            Self::ControlPlane { service } => {
                format!("spiffe://{trust_domain}/control-plane/{service}")
            }
        }
    }

    /// The DNS SAN, which TLS clients check: `<id>.node.<trust-domain>` or
    /// `<service>.control-plane.<trust-domain>`.
    pub fn dns_name(&self, trust_domain: &TrustDomain) -> String {
        match self {
            Self::Node { node, .. } => format!("{node}.node.{trust_domain}"),
            Self::ControlPlane { service } => format!("{service}.control-plane.{trust_domain}"),
        }
    }

    /// Reads a URI SAN. Strict: exactly the text that [`PeerIdentity::uri`] writes.
    ///
    /// # Errors
    /// A foreign trust domain, or any other shape.
    pub fn parse_uri(uri: &str, trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(IdentityError::Shape)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Shape)?;
        if domain != trust_domain.as_str() {
            return Err(IdentityError::ForeignTrustDomain);
        }
        let segments: Vec<&str> = path.split('/').take(5).collect();
        match segments.as_slice() {
            ["shared", "node", node] => Ok(Self::Node {
                tenant: None,
                node: canonical(node)?,
            }),
            ["tenant", tenant, "node", node] => Ok(Self::Node {
                tenant: Some(canonical(tenant)?),
                node: canonical(node)?,
            }),
            ["control-plane", service] => Self::control_plane(service),
            _ => Err(IdentityError::Shape),
        }
    }

    /// The node, when this is one.
    pub fn node(&self) -> Option<Uuid> {
        match self {
            Self::Node { node, .. } => Some(*node),
            Self::ControlPlane { .. } => None,
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { tenant: None, node } => write!(f, "shared/node/{node}"),
            Self::Node {
                tenant: Some(tenant),
                node,
            } => write!(f, "tenant/{tenant}/node/{node}"),
            Self::ControlPlane { service } => write!(f, "control-plane/{service}"),
        }
    }
}

/// Only the lowercase hyphenated form: two spellings of one identity would be two keys in a log.
fn canonical(text: &str) -> Result<Uuid, IdentityError> {
    let id = Uuid::try_parse(text).map_err(|_| IdentityError::Shape)?;
    let mut buffer = Uuid::encode_buffer();
    if id.hyphenated().encode_lower(&mut buffer) == text {
        Ok(id)
    } else {
        Err(IdentityError::Shape)
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::default()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (tenant, node) = (Uuid::now_v7(), Uuid::now_v7());
        for identity in [
            PeerIdentity::Node { tenant: None, node },
            PeerIdentity::Node {
                tenant: Some(tenant),
                node,
            },
            PeerIdentity::control_plane("control-api").unwrap(),
        ] {
            let uri = identity.uri(&domain());
            assert_eq!(PeerIdentity::parse_uri(&uri, &domain()), Ok(identity));
        }
    }

    #[test]
    fn a_foreign_trust_domain_is_told_apart() {
        let uri = "spiffe://other.internal/control-plane/collector";
        assert_eq!(
            PeerIdentity::parse_uri(uri, &domain()),
            Err(IdentityError::ForeignTrustDomain)
        );
    }

    #[test]
    fn anything_but_the_exact_text_is_refused() {
        let node = Uuid::now_v7();
        let upper = node.to_string().to_uppercase();
        for uri in [
            format!("spiffe://vpnpanel.internal/shared/node/{upper}"),
            format!("spiffe://vpnpanel.internal/shared/node/{}", node.simple()),
            format!("spiffe://vpnpanel.internal/shared/node/{node}/"),
            format!("spiffe://vpnpanel.internal/shared/node/{node}/x"),
            format!("spiffe://vpnpanel.internal/tenant//node/{node}"),
            format!("SPIFFE://vpnpanel.internal/shared/node/{node}"),
            "spiffe://vpnpanel.internal/control-plane/".to_owned(),
            "spiffe://vpnpanel.internal/control-plane/Col.lector".to_owned(),
            "spiffe://vpnpanel.internal".to_owned(),
            String::new(),
        ] {
            assert_eq!(
                PeerIdentity::parse_uri(&uri, &domain()),
                Err(IdentityError::Shape),
                "{uri}"
            );
        }
    }
}
