//! What nodes tell each other about a room over the bus.
//!
//! Layout, integers big-endian: version u8, kind u8, origin u64, then by kind.
//! Events carry their encoded message, so that no other node parses or encodes
//! anything. An unreadable announcement is dropped: correctness never depends on
//! the bus, and a node of another version repairs itself from the log.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::bus::NodeId;
use crate::clock::UnixMillis;
use crate::ids::SessionId;
use crate::position::{Epoch, Position, Seq};
use crate::protocol::Json;
use crate::store::history::LogEvent;
use crate::traces::Carried;

const VERSION: u8 = 1;
const EVENTS: u8 = 1;
const SIGNALS: u8 = 2;
const PRESENCE: u8 = 3;
const RIGHTS: u8 = 4;
const TRACES: u8 = 5;

#[derive(Debug, Clone, PartialEq)]
pub enum Announcement {
    /// Committed events of one room, in seq order.
    Events { committed_at: UnixMillis, events: Vec<LogEvent> },
    /// The last `signal` message of each of some sessions.
    Signals { signals: Vec<(SessionId, Json)> },
    /// Somebody came or went: a JSON document, see `presence.rs`.
    Presence { change: Bytes },
    /// Who may be in the room, and as what, has changed.
    Rights { access_rev: u64 },
    /// Of events that are announced next. Apart from them, so that a node that
    /// knows nothing of traces drops only this.
    Traces { carried: Carried },
}

/// What the bus tells of sessions: with what is stored for them, a `Member`, or
/// without when they have left.
pub fn tell_presence(origin: NodeId, changes: &[(&SessionId, Option<&str>)]) -> Bytes {
    let joined: Vec<&str> = changes.iter().filter_map(|(_, member)| *member).collect();
    let left: Vec<&SessionId> =
        changes.iter().filter(|(_, member)| member.is_none()).map(|(session, _)| *session).collect();
    let left = serde_json::to_string(&left).expect("strings always serialize");
    let change = format!(r#"{{"joined":[{}],"left":{left}}}"#, joined.join(","));
    Announcement::Presence { change: change.into() }.encode(origin)
}

impl Announcement {
    pub fn encode(&self, origin: NodeId) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size());
        out.put_u8(VERSION);
        out.put_u8(match self {
            Self::Events { .. } => EVENTS,
            Self::Signals { .. } => SIGNALS,
            Self::Presence { .. } => PRESENCE,
            Self::Rights { .. } => RIGHTS,
            Self::Traces { .. } => TRACES,
        });
        out.put_u64(origin.0);
        match self {
            Self::Events { committed_at, events } => {
                out.put_i64(committed_at.0);
                for event in events {
                    out.put_u64(event.position.epoch.0);
                    out.put_u64(event.position.seq.0);
                    put_text(&mut out, event.json.bytes());
                }
            }
            Self::Signals { signals } => {
                for (session, message) in signals {
                    put_text(&mut out, session.as_str().as_bytes());
                    put_text(&mut out, message.bytes());
                }
            }
            Self::Presence { change } => put_text(&mut out, change),
            Self::Rights { access_rev } => out.put_u64(*access_rev),
            Self::Traces { carried } => carried.encode(&mut out),
        }
        out.freeze()
    }

    /// `None` for what this version can't read.
    pub fn decode(mut payload: Bytes) -> Option<(NodeId, Self)> {
        let version = payload.try_get_u8().ok()?;
        let kind = payload.try_get_u8().ok()?;
        let origin = NodeId(payload.try_get_u64().ok()?);
        if version != VERSION {
            return None;
        }
        let announcement = match kind {
            EVENTS => Self::Events {
                committed_at: UnixMillis(payload.try_get_i64().ok()?),
                events: decode_events(payload)?,
            },
            SIGNALS => Self::Signals { signals: decode_signals(payload)? },
            PRESENCE => Self::Presence { change: get_text(&mut payload)? },
            RIGHTS => Self::Rights { access_rev: payload.try_get_u64().ok()? },
            TRACES => Self::Traces { carried: Carried::decode(payload)? },
            _ => return None,
        };
        Some((origin, announcement))
    }

    fn size(&self) -> usize {
        let body = match self {
            Self::Events { events, .. } => events.iter().map(|e| 20 + e.json.len()).sum::<usize>() + 8,
            Self::Signals { signals } => {
                signals.iter().map(|(session, message)| 8 + session.as_str().len() + message.len()).sum()
            }
            Self::Presence { change } => 4 + change.len(),
            Self::Rights { .. } => 8,
            Self::Traces { carried } => carried.size(),
        };
        10 + body
    }
}

fn decode_events(mut payload: Bytes) -> Option<Vec<LogEvent>> {
    let mut events = Vec::new();
    while payload.has_remaining() {
        let epoch = Epoch(payload.try_get_u64().ok()?);
        let seq = Seq(payload.try_get_u64().ok()?);
        let json = Json::from_bytes(get_text(&mut payload)?, 1)?;
        events.push(LogEvent { position: Position::new(epoch, seq), json });
    }
    Some(events)
}

fn decode_signals(mut payload: Bytes) -> Option<Vec<(SessionId, Json)>> {
    let mut signals = Vec::new();
    while payload.has_remaining() {
        let session = SessionId::new(std::str::from_utf8(&get_text(&mut payload)?).ok()?).ok()?;
        signals.push((session, Json::from_bytes(get_text(&mut payload)?, 1)?));
    }
    Some(signals)
}

fn put_text(out: &mut BytesMut, text: &[u8]) {
    out.put_u32(u32::try_from(text.len()).expect("messages are limited to far below 4 GiB"));
    out.put_slice(text);
}

fn get_text(payload: &mut Bytes) -> Option<Bytes> {
    let length = payload.try_get_u32().ok()? as usize;
    (length <= payload.remaining()).then(|| payload.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::presence::Change;
    use super::*;
    use crate::ids::UserId;
    use crate::protocol::Role;
    use crate::protocol::server::Member;

    #[test]
    fn what_is_encoded_is_decoded() {
        let event = |seq| LogEvent {
            position: Position::new(Epoch(9), Seq(seq)),
            json: Json::one(format!("{{\"seq\":{seq},\"text\":\"ä→😀\"}}")),
        };
        let all = [
            Announcement::Events { committed_at: UnixMillis(77), events: vec![event(1), event(2)] },
            Announcement::Signals {
                signals: ["abc", "d"]
                    .map(|session| (SessionId::new(session).unwrap(), Json::one("{}".to_owned())))
                    .to_vec(),
            },
            Announcement::Presence { change: Bytes::from_static(b"{\"left\":[]}") },
            Announcement::Rights { access_rev: 5 },
        ];
        for announcement in all {
            let payload = announcement.encode(NodeId(3));
            assert_eq!(payload.len(), announcement.size());
            assert_eq!(Announcement::decode(payload), Some((NodeId(3), announcement)));
        }
    }

    #[test]
    fn what_is_stored_of_sessions_is_told_as_a_change() {
        let [ann, bob] = ["ann", "bob"].map(|name| SessionId::new(name).unwrap());
        let member = Member {
            session: ann.clone(),
            user: UserId::new("u").unwrap(),
            name: "\"Ann\"\\".to_owned(),
            role: Role::Viewer,
        };
        let stored = serde_json::to_string(&member).unwrap();
        let told = tell_presence(NodeId(3), &[(&ann, Some(&stored)), (&bob, None)]);
        let Some((NodeId(3), Announcement::Presence { change })) = Announcement::decode(told) else {
            panic!("not a change");
        };
        assert_eq!(Change::from_bytes(&change), Some(Change { joined: vec![member], left: vec![bob] }));
    }

    proptest! {
        #[test]
        fn no_payload_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            let mut payload = vec![VERSION, kind];
            payload.extend(bytes);
            drop(Announcement::decode(Bytes::from(payload)));
        }
    }
}
