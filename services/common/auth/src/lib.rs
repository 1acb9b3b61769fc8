//! Who is calling, and what may they do: passwords, tokens, roles, and the layer and guard that
//! put both in front of every method of the contract.
//!
//! Nothing here knows a database. What has to be looked up comes through traits
//! ([`StandingSource`], [`CredentialSource`], [`Policy`]), so that the rules are tested without one.

mod admission;
pub mod error;
mod forgotten;
pub mod guard;
pub mod layer;
pub mod limits;
pub mod password;
pub mod policy;
pub mod policy_cache;
pub mod principal;
pub mod refresh_token;
pub mod revocation;
pub mod seal;
pub mod sign_in;
pub mod signals;
mod standing_cache;
pub mod tokens;

pub use error::AuthError;
pub use guard::AuthGuard;
pub use layer::{AuthLayer, Authentication, Authenticator};
pub use limits::{LimitSettings, Limits, QuotaSetting, RateLimiter};
pub use password::{PasswordHasher, PasswordSettings, Verdict};
pub use policy::{BuiltinPolicy, PermissionSet, Policy, Role};
pub use policy_cache::{CachedPolicy, SharedPolicy};
pub use principal::{Held, Membership, Principal, Standing, StandingSource};
pub use refresh_token::RefreshToken;
pub use revocation::{RevocationList, RevocationSource};
pub use seal::Seal;
pub use sign_in::{CredentialSource, PasswordProof, PasswordSignIn, SignInMethod, StoredPassword};
pub use signals::{Signal, Signals};
pub use standing_cache::StandingCache;
pub use tokens::{AccessClaims, IssuedToken, KeyRing, SigningKey, TokenIssuer, TokenSettings};

/// A failure of what a trait of this crate looks things up in, for example the database.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;
