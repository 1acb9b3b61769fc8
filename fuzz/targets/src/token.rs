//! Tokens that are told by their form before they are looked up: refresh, API and join tokens,
//! recovery codes, codes of the second factor.

use vpnpanel_auth::{ApiToken, RecoveryCode, RefreshToken, TotpSecret};
use vpnpanel_domain::AccountId;
use vpnpanel_pki::JoinToken;

const NOW_MS: i64 = 1_790_000_000_000;

/// A text that is presented as a token. Each kind takes its own alone, and whatever is looked up
/// by its hash has one spelling, so that a second one is no way around a revocation.
pub(crate) fn tokens(data: &[u8]) -> bool {
    let Some(text) = crate::line(data) else {
        return false;
    };
    let refresh = RefreshToken::parse(text);
    if let Some(token) = &refresh {
        assert_eq!(token.expose(), text);
        assert_eq!(text.len(), 47);
    }
    let api = ApiToken::parse(text);
    if let Some(token) = &api {
        assert!(ApiToken::is_meant_by(text));
        assert_eq!(token.expose(), text);
        assert_eq!(text.len(), 52);
        assert_eq!(token.hint(), text[..10]);
    }
    let join = JoinToken::parse(text);
    if let Ok(token) = &join {
        assert_eq!(token.text().as_str(), text);
    }
    let recovery = RecoveryCode::parse(text);
    if let Some(code) = &recovery {
        let account = AccountId::from_parts(1, [1; 10]);
        let again = RecoveryCode::parse(&code.expose()).expect("as it is written down");
        assert_eq!(again.hash(account), code.hash(account));
    }
    let secret = TotpSecret::from_bytes(b"12345678901234567890");
    let step = secret.step_of(text, NOW_MS);
    if let Some(step) = step {
        let typed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        assert_eq!(secret.code(step).as_str(), typed);
        assert!((step - NOW_MS / 30_000).abs() <= 1);
    }
    let taken = [
        refresh.is_some(),
        api.is_some(),
        join.is_ok(),
        recovery.is_some(),
        step.is_some(),
    ];
    let kinds = taken.into_iter().filter(|taken| *taken).count();
    assert!(kinds <= 1, "a token of {kinds} kinds");
    kinds == 1
}
