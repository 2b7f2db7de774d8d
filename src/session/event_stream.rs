//! Server-Sent Events: our own messages, written for an `EventSource`.
//!
//! Pure. An event is named after its message's type, and its data is the message.
//! It carries an `id`, if and only if whoever has read all events up to it can be
//! given the rest from there: that of a log's event, and of a snapshot's last
//! page. The page before it has none, and so leaves the reader where it was.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::{RoomId, SessionId};
use crate::position::Position;
use crate::protocol::Json;
use crate::protocol::server::{self, Member, PresenceChange};

/// When an `EventSource` whose connection broke comes back, in milliseconds: not
/// all of a node's at the same time.
const RETRY_MS: std::ops::Range<u64> = 500..2_500;

pub struct Encoder {
    itself: SessionId,
    /// Who is in the room, until it can be told: the state comes first.
    here: Option<Json>,
}

/// What a message says of its place.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type", borrow)]
    message_type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
    last: bool,
}

#[derive(Deserialize)]
struct Joined {
    room: RoomId,
    members: Vec<Member>,
    count: usize,
}

#[derive(Deserialize)]
struct Goodbye {
    reconnect_after_ms: u64,
}

impl Encoder {
    /// What shows that the stream lives.
    pub const COMMENT: &'static [u8] = b":\n\n";

    pub fn new(itself: SessionId) -> Self {
        Self { itself, here: None }
    }

    /// What a stream begins with.
    pub fn preface() -> String {
        format!("retry: {}\n\n", rand::random_range(RETRY_MS))
    }

    /// Of each, one or more messages.
    pub fn encode(&mut self, messages: &[Json]) -> String {
        let bytes: usize = messages.iter().map(|json| json.len() + 64 * json.messages()).sum();
        let mut out = String::with_capacity(bytes);
        for json in messages {
            let mut rest = json.as_str();
            while let Some((message, after)) = first(rest) {
                self.message(message, &mut out);
                rest = after;
            }
        }
        out
    }

    fn message(&mut self, message: &str, out: &mut String) {
        let Some(Said { message_type }) = read(message) else { return };
        match message_type.as_ref() {
            "joined" => self.joined(message),
            "event" => block(out, read(message), "event", message),
            "events" => {
                let page: Option<Page<'_>> = read(message);
                let at = page.as_ref().and_then(|page| read(page.events.last()?.get()));
                block(out, at, "events", message);
                self.paged(page, out);
            }
            "snapshot" => {
                let page: Option<Page<'_>> = read(message);
                let at = page.as_ref().filter(|page| page.last).and_then(|_| read(message));
                block(out, at, "snapshot", message);
                self.paged(page, out);
            }
            "goodbye" => {
                block(out, None, "goodbye", message);
                // Everybody is told another delay.
                if let Some(Goodbye { reconnect_after_ms: delay @ 1.. }) = read(message) {
                    out.push_str(&format!("retry: {delay}\n\n"));
                }
            }
            other => block(out, None, other, message),
        }
    }

    /// Not told: which pages follow shows what became of the reader's position,
    /// and who is here is told as if they came when it had the state.
    fn joined(&mut self, message: &str) {
        let Some(Joined { room, mut members, count }) = read(message) else { return };
        members.retain(|member| member.session != self.itself);
        self.here = Some(server::presence(&PresenceChange { room, joined: &members, left: &[], count }));
    }

    fn paged(&mut self, page: Option<Page<'_>>, out: &mut String) {
        if page.is_some_and(|page| page.last)
            && let Some(here) = self.here.take()
        {
            block(out, None, "presence", here.as_str());
        }
    }
}

/// The first message and what follows it.
fn first(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(',');
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let message = stream.next()?.inspect_err(complain).ok()?;
    Some((message.get(), &text[stream.byte_offset()..]))
}

fn read<'a, T: Deserialize<'a>>(message: &'a str) -> Option<T> {
    serde_json::from_str(message).inspect_err(complain).ok()
}

fn complain(error: &serde_json::Error) {
    tracing::error!(%error, "a message of our own can't be read back");
}

fn block(out: &mut String, at: Option<Position>, name: &str, message: &str) {
    if let Some(at) = at {
        out.push_str(&format!("id: {at}\n"));
    }
    out.push_str("event: ");
    out.push_str(name);
    out.push_str("\ndata: ");
    // Only between two tokens can JSON have line breaks.
    for line in message.split(['\n', '\r']) {
        out.push_str(line);
    }
    out.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Seq};
    use crate::protocol::server::{EventsPage, JoinMode, Joined, ResyncReason, SnapshotPage};
    use crate::protocol::{CloseCode, Role};

    fn room() -> RoomId {
        RoomId::new(7).unwrap()
    }

    fn at(epoch: u64, seq: u64) -> Position {
        Position::new(Epoch(epoch), Seq(seq))
    }

    fn event(at: Position) -> Json {
        let (epoch, seq) = (at.epoch, at.seq);
        Json::one(format!(r#"{{"type":"event","room":7,"epoch":{epoch},"seq":{seq},"data":{{"last":"x"}}}}"#))
    }

    fn encoder() -> Encoder {
        Encoder::new(SessionId::new("me").unwrap())
    }

    /// Id and name of each event.
    fn told(text: &str) -> Vec<(Option<&str>, &str)> {
        fn field<'a>(block: &'a str, name: &str) -> Option<&'a str> {
            block.lines().find_map(|line| line.strip_prefix(name))
        }
        let blocks = text.split("\n\n").filter(|block| !block.is_empty());
        blocks.map(|block| (field(block, "id: "), field(block, "event: ").unwrap())).collect()
    }

    #[test]
    fn only_what_can_be_gone_on_from_has_an_id() {
        let shapes = |page, last| {
            server::snapshot::<&str>(&SnapshotPage {
                room: room(),
                position: at(3, 9),
                shapes: &[],
                page,
                last,
            })
        };
        let (one, two) = (event(at(3, 10)), event(at(4, 11)));
        let page = |events: &[&str], last| {
            server::events(&EventsPage {
                room: room(),
                from: Seq(10),
                to: Seq(11),
                head: at(5, 12),
                events,
                last,
            })
        };
        let messages = [
            shapes(1, false),
            shapes(2, true),
            Json::join(&[one.clone(), two.clone()]),
            server::resync(room(), ResyncReason::PositionLost),
            page(&[one.as_str(), two.as_str()], true),
            page(&[], true),
        ];
        let text = encoder().encode(&messages);
        let expected = [
            (None, "snapshot"),
            (Some("3.9"), "snapshot"),
            (Some("3.10"), "event"),
            (Some("4.11"), "event"),
            (None, "resync"),
            // Of the last event on it, whatever the head's epoch is.
            (Some("4.11"), "events"),
            (None, "events"),
        ];
        assert_eq!(told(&text), expected, "{text}");
    }

    #[test]
    fn who_is_here_is_told_after_the_state() {
        let member = |name: &str| Member {
            session: SessionId::new(name).unwrap(),
            user: crate::ids::UserId::new(name).unwrap(),
            name: name.to_owned(),
            role: Role::Viewer,
        };
        let slug = crate::ids::Slug::new("room").unwrap();
        let joined = server::joined(
            None,
            &Joined {
                room: room(),
                slug: &slug,
                head: at(1, 1),
                role: Role::Viewer,
                mode: JoinMode::Snapshot,
                members: &[member("me"), member("bob")],
                count: 2,
            },
        );
        let page = |page, last| {
            server::snapshot::<&str>(&SnapshotPage {
                room: room(),
                position: at(1, 1),
                shapes: &[],
                page,
                last,
            })
        };
        let mut encoder = encoder();
        let text = encoder.encode(&[joined, page(1, false)]);
        assert_eq!(told(&text), [(None, "snapshot")]);
        let text = encoder.encode(&[page(2, true)]);
        assert_eq!(told(&text), [(Some("1.1"), "snapshot"), (None, "presence")]);
        assert!(text.contains(r#""session":"bob""#) && !text.contains(r#""session":"me""#), "{text}");
    }

    #[test]
    fn a_message_is_one_line_and_a_goodbye_says_when_to_come_back() {
        let text = encoder().encode(&[Json::one("{\"type\":\"pong\",\r\n \"t\":\"a\\nb\"}".to_owned())]);
        assert_eq!(text, "event: pong\ndata: {\"type\":\"pong\", \"t\":\"a\\nb\"}\n\n");
        let text = encoder().encode(&[server::goodbye(CloseCode::Restart, 1234)]);
        assert!(text.starts_with("event: goodbye\n") && text.ends_with("\n\nretry: 1234\n\n"), "{text}");
        let text = encoder().encode(&[server::goodbye(CloseCode::Kicked, 0)]);
        assert!(!text.contains("retry"), "{text}");
    }
}
