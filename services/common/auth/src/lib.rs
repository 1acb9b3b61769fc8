//! Who is calling, and what may they do: passwords, tokens, roles, and the layer and guard that
//! put both in front of every method of the contract.
//!
//! Nothing here knows a database. What has to be looked up comes through traits
//! ([`StandingSource`], [`CredentialSource`], [`Policy`]), so that the rules are tested without one.

mod admission;
pub mod api_token;
pub mod error;
mod forgotten;
pub mod guard;
pub mod keys;
pub mod layer;
pub mod limits;
pub mod password;
pub mod policy;
pub mod policy_cache;
pub mod principal;
pub mod recovery_code;
pub mod refresh_token;
pub mod revocation;
pub mod seal;
pub mod sign_in;
pub mod signals;
mod standing_cache;
pub mod strength;
pub mod tokens;
pub mod totp;
pub mod tuning;

pub use api_token::{ApiToken, ApiTokenGrant, ApiTokenSource};
pub use error::AuthError;
pub use guard::AuthGuard;
pub use keys::{KeyRing, KeySet, KeySource, SigningKey, VerifyingKey};
pub use layer::{AuthLayer, Authentication, Authenticator};
pub use limits::{LimitSettings, Limits, QuotaSetting, RateLimiter};
pub use password::{Asking, PasswordHasher, PasswordSettings, Verdict};
pub use policy::{BuiltinPolicy, PermissionSet, Policy, Role};
pub use policy_cache::{CachedPolicy, SharedPolicy};
pub use principal::{Held, Membership, Principal, Reach, Standing, StandingSource};
pub use recovery_code::RecoveryCode;
pub use refresh_token::RefreshToken;
pub use revocation::{Credential, RevocationList, RevocationSource};
pub use seal::Seal;
pub use sign_in::{
    CredentialSource, PasswordProof, PasswordSignIn, Proven, SignInMethod, StoredPassword,
};
pub use signals::{Signal, Signals};
pub use standing_cache::StandingCache;
pub use tokens::{AccessClaims, IssuedToken, TokenIssuer, TokenSettings};
pub use totp::TotpSecret;

/// A failure of what a trait of this crate looks things up in, for example the database.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;
