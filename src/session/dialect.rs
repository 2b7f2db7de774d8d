//! Which protocol a client speaks. Behind it there is one kind of session: what
//! the drawing app's first protocol says is translated on its way in and out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::legacy::Translator;
use crate::metrics::gateway::Transport;
use crate::protocol::{CloseCode, FrameLimits, Inbound, Json, read_frame};

pub enum Dialect {
    /// `roomgate.v1`: the session's own language.
    V1,
    /// The drawing app's first protocol. Reader and writer share the translator.
    Legacy(Box<Mutex<Translator>>),
}

impl Dialect {
    pub fn legacy() -> Self {
        Self::Legacy(Box::default())
    }

    /// The messages of a frame, in order, good or refused. `Err` ends the session.
    pub fn incoming(&self, text: &str, limits: FrameLimits) -> Result<Vec<Inbound>, CloseCode> {
        match self {
            Self::V1 => read_frame(text, limits),
            Self::Legacy(translator) => Ok(vec![locked(translator).incoming(text, limits)]),
        }
    }

    /// Adds to `out` what the client is to be sent for `messages`.
    pub fn outgoing(&self, messages: Vec<Json>, out: &mut VecDeque<Json>) {
        match self {
            Self::V1 => out.extend(messages),
            Self::Legacy(translator) => {
                let mut translator = locked(translator);
                messages.iter().for_each(|message| translator.outgoing(message, out));
            }
        }
    }

    /// `goodbye`, if the client knows it.
    pub fn farewell(&self, goodbye: Json) -> Option<Json> {
        matches!(self, Self::V1).then_some(goodbye)
    }

    /// Several messages may share a frame.
    pub fn has_arrays(&self) -> bool {
        matches!(self, Self::V1)
    }

    pub fn transport(&self) -> Transport {
        match self {
            Self::V1 => Transport::WebSocket,
            Self::Legacy(_) => Transport::Legacy,
        }
    }
}

fn locked(translator: &Mutex<Translator>) -> MutexGuard<'_, Translator> {
    translator.lock().unwrap_or_else(PoisonError::into_inner)
}
