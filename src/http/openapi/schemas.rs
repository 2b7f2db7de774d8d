//! What answers look like. The answers themselves are written field by field,
//! much of them from JSON that exists already; these only describe them, and
//! `make api-test` holds the two together.
#![expect(dead_code, reason = "described, never made")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use crate::protocol::{Access, DefaultRole, Role, Schema};

/// Every refusal.
#[derive(ToSchema)]
pub struct Refused {
    error: Problem,
}

#[derive(ToSchema)]
pub struct Problem {
    /// A stable string, see the statuses.
    code: String,
    /// What is wrong and what to do, for a person.
    message: String,
    request_id: String,
}

#[derive(ToSchema)]
pub struct User {
    id: String,
    email: Option<String>,
    name: String,
    photo: Option<String>,
}

#[derive(ToSchema)]
pub struct Me {
    user: User,
}

/// A sign-in: the access token, and what gets the next one.
#[derive(ToSchema)]
pub struct SignedIn {
    user: User,
    token: String,
    refresh_token: String,
    /// Of `token`.
    expires_at: i64,
}

#[derive(ToSchema)]
pub struct SignIns {
    items: Vec<OwnSignIn>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct OwnSignIn {
    #[schema(format = "uuid")]
    id: String,
    created_at: i64,
    refreshed_at: i64,
    /// Of its last refresh token.
    expires_at: i64,
    /// `User-Agent` of the client that signed in, shortened.
    agent: Option<String>,
    /// The sign-in of the token that the request showed.
    current: bool,
}

#[derive(ToSchema)]
pub struct Room {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    room: i64,
    slug: String,
    name: String,
    schema: Schema,
    access: Access,
    default_role: DefaultRole,
    owner: String,
    has_password: bool,
    #[schema(value_type = Object)]
    metadata: BTreeMap<String, Value>,
    counters: Counters,
    epoch: i64,
    /// The seq of the last event.
    head: i64,
    created_at: i64,
    updated_at: i64,
    archived_at: Option<i64>,
    /// How long events are kept behind a snapshot: 0 for ever, null as the gateway is configured.
    retention_ms: Option<i64>,
}

#[derive(ToSchema)]
pub struct Counters {
    visits: i64,
    events: i64,
}

#[derive(ToSchema)]
pub struct Rooms {
    items: Vec<Room>,
    next_cursor: Option<String>,
    /// Shards whose rooms are missing, and come with a later page.
    incomplete: Vec<String>,
}

#[derive(ToSchema)]
pub struct Trail {
    items: Vec<TrailNote>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct TrailNote {
    at: i64,
    /// The user that acted.
    actor: String,
    /// `role.viewer`, `role.editor`, `role.owner`, `kick`, `leave`, `access`, `archive`, `invite.made`, …
    action: String,
    /// The user it was done to, if that is another one.
    #[schema(required = false)]
    user: Option<String>,
    #[schema(required = false)]
    invite: Option<i64>,
}

#[derive(ToSchema)]
pub struct Membership {
    room: i64,
    user: String,
    role: Role,
}

#[derive(ToSchema)]
pub struct Members {
    items: Vec<Listed>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct Listed {
    user: String,
    role: Role,
    joined_at: i64,
}

#[derive(ToSchema)]
pub struct NewInvite {
    id: i64,
    /// Told here and to repeats of the request, and nowhere else.
    code: String,
    role: Role,
    expires_at: Option<i64>,
    max_uses: Option<i64>,
}

#[derive(ToSchema)]
pub struct Invites {
    items: Vec<Invite>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct Invite {
    id: i64,
    role: Role,
    expires_at: Option<i64>,
    max_uses: Option<i64>,
    uses: i64,
    revoked: bool,
    created_by: String,
    created_at: i64,
}

/// For `GET /v1/rooms/{room}/live`, once.
#[derive(ToSchema)]
pub struct Ticket {
    ticket: String,
    expires_at: i64,
}

#[derive(ToSchema)]
pub struct Stats {
    epoch: i64,
    head: i64,
    /// Events up to this seq are counted.
    counted: i64,
    items: Vec<DayCounts>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct DayCounts {
    /// `2026-11-21`, of UTC.
    day: String,
    events: i64,
    /// Different ones who wrote.
    users: i64,
    visits: i64,
}

/// All pages of a list are of one position.
#[derive(ToSchema)]
pub struct Shapes {
    epoch: i64,
    seq: i64,
    items: Vec<ShapeItem>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct ShapeItem {
    version: i64,
    #[schema(value_type = Object)]
    shape: BTreeMap<String, Value>,
}

#[derive(ToSchema)]
pub struct Events {
    epoch: i64,
    head: i64,
    items: Vec<Event>,
    next_cursor: Option<String>,
}

/// With the body of its kind as it was submitted.
#[derive(ToSchema)]
pub struct Event {
    r#type: String,
    room: i64,
    epoch: i64,
    seq: i64,
    kind: String,
    op: String,
    user: String,
    at: i64,
    /// Of shapes.
    #[schema(nullable = false)]
    version: Option<i64>,
}

/// In the order of the items.
#[derive(ToSchema)]
pub struct Answers {
    items: Vec<Answered>,
}

/// An `ack`, a `reject`, or an `error` for an item whose op can't be read.
#[derive(ToSchema)]
pub struct Answered {
    r#type: String,
    #[schema(nullable = false)]
    op: Option<String>,
    #[schema(nullable = false)]
    seq: Option<i64>,
    #[schema(nullable = false)]
    epoch: Option<i64>,
    #[schema(nullable = false)]
    version: Option<i64>,
    #[schema(nullable = false)]
    code: Option<String>,
    #[schema(nullable = false)]
    message: Option<String>,
}

#[derive(ToSchema)]
pub struct Imported {
    imported: i64,
    rejected: Vec<RejectedLine>,
    epoch: i64,
    from: i64,
    /// One less than `from` if nothing was imported.
    to: i64,
}

#[derive(ToSchema)]
pub struct RejectedLine {
    line: i64,
    code: String,
}

/// The first hundred, and how many there are.
#[derive(ToSchema)]
pub struct Presence {
    count: i64,
    members: Vec<Member>,
}

#[derive(ToSchema)]
pub struct Member {
    session: String,
    user: String,
    name: String,
    role: Role,
}

#[derive(ToSchema)]
pub struct Health {
    status: String,
    database: String,
}
