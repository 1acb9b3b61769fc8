//! Passwords, tokens, roles, the authorization layer
