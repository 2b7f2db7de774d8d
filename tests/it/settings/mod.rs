//! Settings that a database administrator may change for a role, a database or a
//! server: none of them breaks the promise.

mod classes;
mod durable;
mod every;
mod lacking;
mod stale;
mod unsafe_servers;
