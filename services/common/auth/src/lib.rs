//! Who is calling, and what may they do: passwords, tokens, roles, and the layer and guard that
//! put both in front of every method of the contract.
//!
//! Nothing here knows a database. What has to be looked up comes through traits
//! ([`StandingSource`], [`CredentialSource`], [`Policy`]), so that the rules are tested without one.

pub mod error;
pub mod guard;
pub mod layer;
pub mod password;
pub mod policy;
pub mod policy_cache;
pub mod principal;
pub mod refresh_token;
pub mod sign_in;
pub mod tokens;

pub use error::AuthError;
pub use guard::AuthGuard;
pub use layer::{AuthLayer, Authentication, Authenticator};
pub use password::{PasswordHasher, PasswordSettings, Verdict};
pub use policy::{BuiltinPolicy, PermissionSet, Policy, Role};
pub use policy_cache::PolicyCache;
pub use principal::{Held, Membership, Principal, Standing, StandingCache, StandingSource};
pub use refresh_token::RefreshToken;
pub use sign_in::{CredentialSource, PasswordProof, PasswordSignIn, SignInMethod, StoredPassword};
pub use tokens::{AccessClaims, IssuedToken, KeyRing, SigningKey, TokenIssuer, TokenSettings};

/// A failure of what a trait of this crate looks things up in, for example the database.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;
