//! What the runtime promises to every service, seen from outside.

mod authority;
mod calls;
mod listeners;
mod mutual_tls;
mod supervision;
mod wire;
