//! The management API
