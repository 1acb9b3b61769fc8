//! A thin Rust client of vpnpanel
