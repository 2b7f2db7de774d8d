//! The wire: what may be said, in which form, and how it is refused.
//!
//! Owns parsing and encoding of messages. Knows no sockets and does no I/O.

mod client;
mod code;
mod encode;
mod frame;
mod operation;
#[cfg(test)]
mod properties;
mod room;
pub mod server;
pub mod strict;
#[cfg(test)]
mod tests;
mod wire;

pub use client::{ClientInfo, ClientMessage, Inbound, Join, MessageId, Refused, RoomRef, SIGNAL_BYTES};
pub use code::{CloseCode, Code, Refusal};
pub use encode::{ObjectWriter, push_string};
pub use frame::{FRAME_ITEMS, FrameLimits, read_frame, read_message};
pub use operation::{Exact, Kind, Object, Operation, Shape, Version};
pub use room::{Access, DefaultRole, Role, Schema};
pub use wire::Json;
