//! Periodic jobs
