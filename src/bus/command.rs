//! The table of everything that the gateway asks of Redis.
//!
//! No other file names a command, a key or a channel. The enum and
//! [`Command::ALL`] come from the same lines, so a new command is tried by the
//! health check, listed in the ACL rule and covered by the tests without a
//! further edit.

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, PubsubInterface};
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use futures_util::future::join_all;

use super::refusal::Refusal;
use crate::ids::RoomId;

pub(super) const NODES_KEY: &str = "roomgate:nodes";
/// Carries no content: a node that receives it asks the directory.
pub(super) const REVOKED: &str = "roomgate:revoked";
const MEMBERS: &str = "roomgate:members:";
const LIMIT: &str = "roomgate:limit:";
const ROOM: &str = "roomgate:room:";
pub(super) const ALL_MEMBERS: &str = "roomgate:members:*";

/// Rooms count from 1 and limits are hashes, so 0 is free for trials.
const NOTHING: &str = "0";

pub(super) fn members_key(room: RoomId) -> String {
    format!("{MEMBERS}{room}")
}

pub(super) fn limit_key(limit: &str) -> String {
    format!("{LIMIT}{limit}")
}

pub(super) fn channel(room: RoomId) -> String {
    format!("{ROOM}{room}")
}

pub(super) fn room_of(channel: &str) -> Option<RoomId> {
    RoomId::new(channel.strip_prefix(ROOM)?.parse().ok()?).ok()
}

/// Part of the gateway that works only while Redis takes its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    Events,
    Presence,
    Limits,
    Revocations,
    Erasures,
}

/// The keys or channels of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Server,
    Nodes,
    Members,
    Limits,
    Rooms,
    Revoked,
}

impl On {
    /// As an ACL names them.
    pub fn pattern(self) -> &'static str {
        match self {
            Self::Server => "",
            Self::Nodes => "~roomgate:nodes",
            Self::Members => "~roomgate:members:*",
            Self::Limits => "~roomgate:limit:*",
            Self::Rooms => "&roomgate:room:*",
            Self::Revoked => "&roomgate:revoked",
        }
    }

    /// The pattern without the sign of its kind.
    pub fn name(self) -> &'static str {
        self.pattern().trim_start_matches(['~', '&'])
    }

    /// The key or channel of a trial.
    fn trial(self) -> Option<String> {
        Some(match self {
            Self::Server => return None,
            Self::Nodes => NODES_KEY.to_owned(),
            Self::Members => format!("{MEMBERS}{NOTHING}"),
            Self::Limits => limit_key(NOTHING),
            Self::Rooms => format!("{ROOM}{NOTHING}"),
            Self::Revoked => REVOKED.to_owned(),
        })
    }
}

struct Spec {
    word: &'static str,
    on: On,
    jobs: &'static [Job],
    /// Arguments, after the key, with which the command changes nothing that
    /// lasts. None: other lines prove that it is allowed.
    trial: Option<&'static [&'static str]>,
}

macro_rules! commands {
    ($($name:ident: $word:literal on $on:ident for $jobs:expr, tried with $trial:expr;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Command { $($name),+ }

        impl Command {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            const fn spec(self) -> Spec {
                match self {
                    $(Self::$name => Spec { word: $word, on: On::$on, jobs: &$jobs, trial: $trial }),+
                }
            }
        }
    };
}

use Job::{Erasures, Events, Limits, Presence, Revocations};

commands! {
    // The client sends these when it connects.
    Connect: "HELLO" on Server for [Events, Presence, Limits, Revocations, Erasures], tried with None;
    ClientId: "CLIENT|ID" on Server for [], tried with None;
    Info: "INFO" on Server for [], tried with None;

    Time: "TIME" on Server for [Presence], tried with Some(&[]);
    NodeAlive: "ZADD" on Nodes for [Presence], tried with Some(&["XX", "0", NOTHING]);
    NodesKept: "EXPIRE" on Nodes for [Presence], tried with Some(&["30"]);
    NodesList: "ZRANGEBYSCORE" on Nodes for [Presence], tried with Some(&["1", "0"]);
    NodesExpire: "ZREMRANGEBYSCORE" on Nodes for [Presence], tried with Some(&["1", "0"]);
    NodeGone: "ZREM" on Nodes for [Presence], tried with Some(&[NOTHING]);

    MemberEnter: "HSET" on Members for [Presence], tried with Some(&[NOTHING, NOTHING]);
    MembersKept: "EXPIRE" on Members for [Presence], tried with Some(&["30"]);
    MembersList: "HGETALL" on Members for [Presence], tried with Some(&[]);
    MemberLeave: "HDEL" on Members for [Presence], tried with Some(&[NOTHING]);
    MembersScan: "SCAN" on Server for [Erasures], tried with Some(&["0", "COUNT", "1"]);

    LimitBegin: "SET" on Limits for [Limits], tried with Some(&["0", "EX", "60", "NX"]);
    LimitAdd: "INCRBY" on Limits for [Limits], tried with Some(&["0"]);
    LimitKept: "EXPIRE" on Limits for [Limits], tried with Some(&["60", "NX"]);
    LimitLeft: "PTTL" on Limits for [Limits], tried with Some(&[]);

    EventSend: "SPUBLISH" on Rooms for [Events, Presence], tried with Some(&[""]);
    EventsSubscribe: "SSUBSCRIBE" on Rooms for [Events, Presence], tried with Some(&[]);
    EventsUnsubscribe: "SUNSUBSCRIBE" on Rooms for [Events], tried with Some(&[]);
    // A trial would make every node ask the directory.
    RevokedSend: "SPUBLISH" on Revoked for [Revocations], tried with None;
    RevokedSubscribe: "SSUBSCRIBE" on Revoked for [Revocations], tried with Some(&[]);
}

impl Command {
    pub fn word(self) -> &'static str {
        self.spec().word
    }

    pub fn on(self) -> On {
        self.spec().on
    }

    pub fn jobs(self) -> &'static [Job] {
        self.spec().jobs
    }

    /// In a pipeline it is only queued.
    pub async fn send<R: FromValue>(self, client: &impl ClientLike, args: Vec<Value>) -> Result<R, Error> {
        let hash = if self.on() == On::Server { ClusterHash::Random } else { ClusterHash::FirstKey };
        client.custom(CustomCommand::new_static(self.word(), hash, false), args).await
    }

    /// Changes a subscription. The client matches the confirmation only of
    /// commands that it makes itself.
    pub async fn subscription(self, client: &Client, channel: String) -> Result<(), Error> {
        match self {
            Self::EventsUnsubscribe => client.sunsubscribe(channel).await,
            _ => client.ssubscribe(channel).await,
        }
    }

    fn is_subscription(self) -> bool {
        matches!(self, Self::EventsSubscribe | Self::EventsUnsubscribe | Self::RevokedSubscribe)
    }

    pub fn tried() -> impl Iterator<Item = (Self, Vec<Value>)> {
        Self::ALL.iter().filter_map(|command| {
            let key = command.on().trial();
            let args = command.spec().trial?.iter().map(|arg| Value::from(*arg));
            Some((*command, key.map(Value::from).into_iter().chain(args).collect()))
        })
    }
}

/// A connection carries either subscriptions or everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Speaking,
    Listening,
}

/// Tries every command of one side. Returns the refused ones, or none if Redis
/// left a trial unanswered.
pub(super) async fn refused(client: &Client, side: Side) -> Option<Vec<Refusal>> {
    let of_side = |command: &Command| command.is_subscription() == (side == Side::Listening);
    let trials: Vec<_> = Command::tried().filter(|(command, _)| of_side(command)).collect();
    let answers: Vec<Result<(), Error>> = match side {
        Side::Speaking => {
            let pipeline = client.pipeline();
            for (command, args) in &trials {
                command.send::<()>(&pipeline, args.clone()).await.ok()?;
            }
            pipeline.try_all::<Value>().await.into_iter().map(|answer| answer.map(drop)).collect()
        }
        Side::Listening => {
            let sent = trials
                .iter()
                .filter_map(|(command, _)| Some(command.subscription(client, command.on().trial()?)));
            join_all(sent).await
        }
    };
    let mut refused = Vec::new();
    for ((command, _), answer) in trials.iter().zip(&answers) {
        match answer {
            Ok(()) => {}
            Err(error) => refused.push(Refusal::of(answered(*command, error), error)?),
        }
    }
    // A pipeline that broke answers once for all.
    (answers.len() == trials.len() || !refused.is_empty()).then_some(refused)
}

/// The client expects no answer to SUNSUBSCRIBE, and takes a refusal of it for the
/// answer to the next command.
fn answered(command: Command, error: &Error) -> Command {
    if error.details().contains("'sunsubscribe'") { Command::EventsUnsubscribe } else { command }
}

/// The rules that a user of the gateway needs, for `ACL SETUSER`.
#[cfg(test)]
pub(super) fn acl_rules() -> String {
    let patterns = Command::ALL.iter().map(|command| command.on().pattern()).filter(|rule| !rule.is_empty());
    let words = Command::ALL.iter().map(|command| format!("+{}", command.word().to_lowercase()));
    let patterns: std::collections::BTreeSet<_> = patterns.map(str::to_owned).collect();
    let words: std::collections::BTreeSet<_> = words.collect();
    patterns.into_iter().chain(words).collect::<Vec<_>>().join(" ")
}
