//! What a message asked for, kept beside it for the answer when it is refused.

use crate::ids::{OpId, RoomId};
use crate::protocol::server;
use crate::protocol::{ClientMessage, Inbound, Join, Json, MessageId, Refusal, RoomRef};

pub struct Asked {
    pub id: Option<MessageId>,
    index: Option<usize>,
    /// `None` if no message could be read.
    of: Option<Of>,
    room: Option<RoomId>,
    op: Option<OpId>,
}

enum Of {
    Known(&'static str),
    /// What a message that is refused as such says it is.
    Claimed(String),
}

impl Asked {
    pub fn by(inbound: &Inbound) -> Self {
        let (of, room, op) = match &inbound.message {
            Ok(message) => (Some(Of::Known(name(message))), room(message), op(message)),
            Err(refused) => (refused.of.clone().map(Of::Claimed), refused.room, refused.op.clone()),
        };
        Self { id: inbound.id.clone(), index: inbound.index, of, room, op }
    }

    /// A token in the handshake says hello.
    pub fn by_handshake() -> Self {
        Self { id: None, index: None, of: Some(Of::Known("hello")), room: None, op: None }
    }

    /// A submit whose op could be read, so that it is answered by ack or reject.
    pub fn is_submit(&self) -> bool {
        self.op.is_some()
    }

    /// One of a fixed set, for labels.
    pub fn metric(&self) -> &'static str {
        match self.of {
            Some(Of::Known(name)) => name,
            Some(Of::Claimed(_)) | None => "invalid",
        }
    }

    /// A `reject` for a submit whose room and op are known, an `error` for
    /// everything else.
    pub fn refusal(&self, refusal: &Refusal) -> Json {
        let id = self.id.as_ref();
        let of = match &self.of {
            Some(Of::Known(name)) => Some(*name),
            Some(Of::Claimed(name)) => Some(name.as_str()),
            None => None,
        };
        match (self.room, &self.op) {
            (Some(room), Some(op)) => server::reject(id, room, op, refusal, None),
            _ => server::error(id, self.index, of, self.room, refusal),
        }
    }
}

fn room(message: &ClientMessage) -> Option<RoomId> {
    match message {
        ClientMessage::Join(Join { room: RoomRef::Id(room), .. })
        | ClientMessage::Leave { room }
        | ClientMessage::Submit { room, .. }
        | ClientMessage::Signal { room, .. } => Some(*room),
        _ => None,
    }
}

fn op(message: &ClientMessage) -> Option<OpId> {
    match message {
        ClientMessage::Submit { op, .. } => Some(op.clone()),
        _ => None,
    }
}

fn name(message: &ClientMessage) -> &'static str {
    match message {
        ClientMessage::Hello { .. } => "hello",
        ClientMessage::Join(_) => "join",
        ClientMessage::Leave { .. } => "leave",
        ClientMessage::Submit { .. } => "submit",
        ClientMessage::Signal { .. } => "signal",
        ClientMessage::Refresh { .. } => "refresh",
        ClientMessage::Ping { .. } => "ping",
    }
}
