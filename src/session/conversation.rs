//! A session from its first byte to its last: reader, writer and watch side by
//! side in one task, and an orderly end whichever of them ends first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Shared;
use super::decoder::Decoder;
use super::dialect::Dialect;
use super::ending::{End, Ending, goodbye};
use super::reader::Reader;
use super::socket::Socket;
use super::submits::InFlight;
use super::vitals::Vitals;
use super::watch::{Due, Watch};
use super::writer::Writer;
use crate::clock::UnixMillis;
use crate::ids::SessionId;
use crate::metrics::gateway;
use crate::protocol::{CloseCode, server};
use crate::room::Outbox;

/// How long an ending session may take to answer what is in flight.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// And then to take what waits for it, the close frame last.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// A client whose upgrade is done.
pub struct Arrival {
    pub tcp: TcpStream,
    /// What came right behind the request.
    pub read: Bytes,
    pub dialect: Dialect,
    /// A token that was shown in the handshake.
    pub token: Option<String>,
}

/// What the parts of one session share.
pub struct Session {
    pub shared: Arc<Shared>,
    pub id: SessionId,
    pub socket: Socket,
    pub outbox: Outbox,
    pub vitals: Vitals,
    pub dialect: Dialect,
    pub in_flight: InFlight,
}

/// Returns when the connection is closed.
pub async fn run(shared: &Arc<Shared>, arrival: Arrival) {
    let socket = match Socket::new(arrival.tcp) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "connection lost before the session began"),
    };
    let ending = Arc::new(Ending::default());
    let id = SessionId::random();
    let Ok(_entry) = shared.registry.enter(&id, ending.clone()) else {
        return socket.finish(Some(CloseCode::Restart), FAREWELL_LIMIT).await;
    };
    let _counted = gateway::session(arrival.dialect.transport());
    let decoder = Decoder::new(arrival.read, shared.frame_limits().frame_bytes);
    let session = Session {
        shared: shared.clone(),
        id,
        socket,
        outbox: Outbox::new(shared.parts.config.outbox_bytes),
        vitals: Vitals::new(Instant::now()),
        dialect: arrival.dialect,
        in_flight: InFlight::default(),
    };
    let end = session.converse(decoder, arrival.token, &ending).await;
    gateway::disconnected(end.end.code());
    session.outbox.shut();
    if end.end != End::Gone {
        session.socket.finish(end.close, FAREWELL_LIMIT).await;
    }
}

/// How the conversation ended, and the close frame that may still be sent.
struct Ended {
    end: End,
    close: Option<CloseCode>,
}

impl Session {
    async fn converse(&self, decoder: Decoder, token: Option<String>, ending: &Ending) -> Ended {
        let mut reader = Reader::new(self, decoder);
        let mut writer = Writer::new(&self.outbox, &self.socket, &self.vitals, &self.dialect);
        let end = tokio::select! {
            end = reader.run(token) => end,
            written = writer.run() => written.map_or(End::Gone, End::Close),
            code = self.watch() => End::Close(code),
            code = ending.asked() => End::Close(code),
            code = self.outbox.expelled() => End::Close(code),
        };
        reader.leave_all().await;
        match end {
            End::Gone => Ended { end, close: None },
            // The answer to the client's close is queued as a control frame.
            End::Left => {
                let done = tokio::time::timeout(FAREWELL_LIMIT, writer.finish_frame()).await;
                Ended { end: if matches!(done, Ok(Ok(()))) { end } else { End::Gone }, close: None }
            }
            End::Close(code) => {
                let told = self.farewell(&mut writer, code).await;
                Ended { end, close: told.then_some(code) }
            }
        }
    }

    /// Answers what is in flight, writes what waits, says goodbye. False when
    /// the socket doesn't take it, so that no close frame can follow.
    async fn farewell(&self, writer: &mut Writer<'_>, code: CloseCode) -> bool {
        if code == CloseCode::SlowConsumer || code == CloseCode::HeartbeatTimeout {
            // It has had its time; one try.
            let tried = tokio::time::timeout(Duration::ZERO, writer.finish(goodbye(code))).await;
            return matches!(tried, Ok(Ok(())));
        }
        if matches!(code, CloseCode::Restart | CloseCode::GoingAway | CloseCode::TokenExpired) {
            tokio::select! {
                () = self.in_flight.none() => {}
                written = writer.run() => if written.is_err() { return false },
                () = tokio::time::sleep(SETTLE_LIMIT) => {
                    tracing::debug!(session = %self.id, "closed with submits in flight");
                }
            }
        }
        let told = tokio::time::timeout(FAREWELL_LIMIT, writer.finish(goodbye(code))).await;
        matches!(told, Ok(Ok(())))
    }

    /// Does what falls due; returns when that is a close. Cancel-safe.
    async fn watch(&self) -> CloseCode {
        let mut watch = Watch::new(&self.shared.parts.config, Instant::now());
        loop {
            match watch.due(Instant::now(), UnixMillis::now(), &self.vitals) {
                Due::Nothing { until } => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.vitals.changed.notified() => {}
                },
                Due::Ping => self.socket.ping(),
                Due::TokenExpiring(at) => self.outbox.answer(server::token_expiring(at)),
                Due::Close(code) => return code,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F: Future>(_: fn(&'static Arc<Shared>, Arrival) -> F) -> usize {
        size_of::<F>()
    }

    /// With the read buffer and the decoder this is what an idle client costs.
    #[test]
    fn the_task_of_a_session_is_small() {
        let bytes = size(run);
        assert!(bytes <= 4 * 1024, "{bytes} bytes");
    }
}
