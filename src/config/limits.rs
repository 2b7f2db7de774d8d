//! What one session, user or address may ask for. 0 means no limit.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub submits_per_second: u32,
    pub submit_burst: u32,
    pub signals_per_second: u32,
    /// Each join reads the room's state; after a reconnect come as many at once as
    /// a session has rooms.
    pub joins_per_second: u32,
    pub join_burst: u32,
    pub rooms_per_session: u32,
    pub sessions_per_user: u32,
    /// Of clients, in all and of one address; never more than the descriptor limit
    /// leaves for them.
    pub connections: u32,
    pub connections_per_address: u32,
    pub message_bytes: usize,
    /// A room's live shapes, and the bytes of their texts.
    pub shapes_per_room: u64,
    pub room_bytes: u64,
    pub frame_bytes: usize,
    pub json_depth: usize,
    /// New connections of one address; 0 because balancers share addresses.
    pub handshakes_per_minute: u32,
    pub signups_per_minute: u32,
    /// Failed ones, and guesses of a room's password.
    pub signins_per_minute: u32,
    /// Passwords of rooms that one user sets or tries.
    pub room_passwords_per_minute: u32,
    /// Wrong passwords of one room, by all users, and from one address.
    pub room_guesses_per_minute: u32,
    /// Mails that reset a password, of one account; ten times as many requests of an address.
    pub resets_per_hour: u32,
    pub user_submits_per_minute: u32,
    /// HTTP requests that may change something, of one user; ten times as many of
    /// one address without a token.
    pub writes_per_minute: u32,
    /// Messages of one session, of any type, pings among them.
    pub messages_per_second: u32,
    pub message_burst: u32,
    /// Bytes of one session's frames.
    pub bytes_per_second: u32,
    pub byte_burst: u32,
    /// Of all sessions of one user on this node.
    pub user_messages_per_second: u32,
    pub user_bytes_per_second: u32,
    /// Bytes of signals, counted once for each member of the room: of one user, and of
    /// one room on this node.
    pub user_signal_bytes_per_second: u32,
    pub room_signal_bytes_per_second: u32,
    pub user_imports_per_hour: u32,
    /// Quotas of a user's stored data. Tokens of servers are exempt.
    pub rooms_per_user: u32,
    pub user_metadata_bytes: u64,
    pub invites_per_room: u32,
    pub signins_kept_per_user: u32,
}

impl Limits {
    /// The keys that count something, where 0 lifts the limit. The others are sizes,
    /// and bursts of a rate that is named here.
    pub const COUNTS: [&str; 27] = [
        "shapes_per_room",
        "room_bytes",
        "submits_per_second",
        "signals_per_second",
        "joins_per_second",
        "sessions_per_user",
        "connections",
        "connections_per_address",
        "handshakes_per_minute",
        "signups_per_minute",
        "signins_per_minute",
        "resets_per_hour",
        "room_passwords_per_minute",
        "room_guesses_per_minute",
        "writes_per_minute",
        "messages_per_second",
        "bytes_per_second",
        "user_messages_per_second",
        "user_bytes_per_second",
        "user_signal_bytes_per_second",
        "room_signal_bytes_per_second",
        "user_submits_per_minute",
        "user_imports_per_hour",
        "rooms_per_user",
        "user_metadata_bytes",
        "invites_per_room",
        "signins_kept_per_user",
    ];
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            submits_per_second: 60,
            submit_burst: 120,
            signals_per_second: 30,
            joins_per_second: 10,
            join_burst: 128,
            rooms_per_session: 64,
            sessions_per_user: 100,
            connections: 0,
            connections_per_address: 0,
            message_bytes: 64 * 1024,
            shapes_per_room: 100_000,
            room_bytes: 64 << 20,
            frame_bytes: 1024 * 1024,
            json_depth: 32,
            handshakes_per_minute: 0,
            signups_per_minute: 10,
            signins_per_minute: 10,
            resets_per_hour: 5,
            room_passwords_per_minute: 30,
            room_guesses_per_minute: 60,
            writes_per_minute: 1800,
            messages_per_second: 200,
            message_burst: 1024,
            bytes_per_second: 4 << 20,
            byte_burst: 16 << 20,
            user_messages_per_second: 600,
            user_bytes_per_second: 8 << 20,
            user_signal_bytes_per_second: 8 << 20,
            room_signal_bytes_per_second: 16 << 20,
            user_submits_per_minute: 0,
            user_imports_per_hour: 60,
            rooms_per_user: 1000,
            user_metadata_bytes: 4 * 1024 * 1024,
            invites_per_room: 1000,
            signins_kept_per_user: 100,
        }
    }
}
