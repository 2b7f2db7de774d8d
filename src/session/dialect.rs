//! Which protocol a client speaks. Behind it there is one kind of session: what
//! the drawing app's first protocol says is translated on its way in and out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::event_stream::Encoder;
use super::frame::{DataFrame, PING_FRAME};
use super::legacy::Translator;
use crate::ids::SessionId;
use crate::metrics::gateway::Transport;
use crate::protocol::{CloseCode, FrameLimits, Inbound, Json, read_frame};

pub enum Dialect {
    /// `roomgate.v1`: the session's own language.
    V1,
    /// The drawing app's first protocol. Reader and writer share the translator.
    Legacy(Box<Mutex<Translator>>),
    /// Server-Sent Events: the session's own language, one way.
    EventStream(Box<Mutex<Encoder>>),
}

impl Dialect {
    pub fn legacy() -> Self {
        Self::Legacy(Box::default())
    }

    /// Of this session.
    pub fn event_stream(session: &SessionId) -> Self {
        Self::EventStream(Box::new(Mutex::new(Encoder::new(session.clone()))))
    }

    /// The messages of a frame, in order, good or refused. `Err` ends the session.
    pub fn incoming(&self, text: &str, limits: FrameLimits) -> Result<Vec<Inbound>, CloseCode> {
        match self {
            Self::V1 => read_frame(text, limits),
            Self::Legacy(translator) => Ok(vec![locked(translator).incoming(text, limits)]),
            Self::EventStream(_) => Ok(Vec::new()),
        }
    }

    /// Adds to `out` what the client is to be sent for `messages`.
    pub fn outgoing(&self, messages: Vec<Json>, out: &mut VecDeque<Json>) {
        match self {
            Self::V1 | Self::EventStream(_) => out.extend(messages),
            Self::Legacy(translator) => {
                let mut translator = locked(translator);
                messages.iter().for_each(|message| translator.outgoing(message, out));
            }
        }
    }

    /// `chunks` in one piece, as the client reads it.
    pub fn frame(&self, chunks: Vec<Json>) -> DataFrame {
        match self {
            Self::V1 | Self::Legacy(_) => DataFrame::new(chunks),
            Self::EventStream(encoder) => DataFrame::plain(locked(encoder).encode(&chunks).into()),
        }
    }

    /// What shows that the connection lives.
    pub fn ping(&self) -> &'static [u8] {
        match self {
            Self::V1 | Self::Legacy(_) => &PING_FRAME,
            Self::EventStream(_) => Encoder::COMMENT,
        }
    }

    /// The client is heard: it answers pings, and a close.
    pub fn is_two_way(&self) -> bool {
        !matches!(self, Self::EventStream(_))
    }

    /// `goodbye`, if the client knows it.
    pub fn farewell(&self, goodbye: Json) -> Option<Json> {
        (!matches!(self, Self::Legacy(_))).then_some(goodbye)
    }

    /// Several messages may share a frame.
    pub fn has_arrays(&self) -> bool {
        !matches!(self, Self::Legacy(_))
    }

    pub fn transport(&self) -> Transport {
        match self {
            Self::V1 => Transport::WebSocket,
            Self::Legacy(_) => Transport::Legacy,
            Self::EventStream(_) => Transport::Sse,
        }
    }
}

pub(super) fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
