//! The wire: what may be said, in which form, and how it is refused.
//!
//! Owns parsing and encoding of messages. Knows no sockets and does no I/O.

mod code;
mod operation;
mod room;
mod wire;

pub use code::{CloseCode, Code, Refusal};
pub use operation::{Exact, Kind, Object, Operation, Shape, Version};
pub use room::{Role, Schema};
pub use wire::Json;
