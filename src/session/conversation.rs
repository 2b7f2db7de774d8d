//! A session from its first byte to its last: reader, writer and watch side by
//! side in one task, and an orderly end whichever of them ends first.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::Instrument;

use super::decoder::Decoder;
use super::dialect::Dialect;
use super::ending::{End, Ending, goodbye};
use super::reader::Reader;
use super::socket::Socket;
use super::submits::InFlight;
use super::vitals::Vitals;
use super::watch::{Due, Watch};
use super::writer::Writer;
use super::{Shared, log_span};
use crate::clock::UnixMillis;
use crate::ids::SessionId;
use crate::limits::ConnectionPlace;
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
    pub from: IpAddr,
    /// Held until the connection ends.
    pub place: Option<Arc<ConnectionPlace>>,
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
    /// The address of the client, where it matters.
    pub from: Option<IpAddr>,
    pub socket: Socket,
    pub outbox: Outbox,
    pub vitals: Vitals,
    pub dialect: Dialect,
    pub in_flight: InFlight,
}

/// Returns when the connection is closed.
pub async fn run(shared: &Arc<Shared>, id: SessionId, arrival: Arrival) {
    let _place = arrival.place;
    let socket = match Socket::new(arrival.tcp) {
        Ok(socket) => socket,
        Err(error) => {
            return tracing::debug!(session = %id, %error, "connection lost before the session began");
        }
    };
    let ending = Arc::new(Ending::default());
    let Ok(_entry) = shared.registry.enter(&id, ending.clone()) else {
        return socket.finish(Some(CloseCode::Restart), FAREWELL_LIMIT).await;
    };
    let _counted = gateway::session(arrival.dialect.transport());
    let decoder = Decoder::new(arrival.read);
    let outbox = Outbox::new(shared.parts.config.outbox_bytes);
    let session = Session::new(shared, id, Some(arrival.from), socket, outbox, arrival.dialect);
    let ended = session.converse(decoder, arrival.token, &ending).await;
    session.finish(ended).await;
}

/// How the conversation ended, and the close frame that may still be sent.
pub struct Ended {
    pub end: End,
    pub close: Option<CloseCode>,
    /// The client took what it was to be told. One that didn't has had its time,
    /// and is cut off.
    pub was_told: bool,
}

impl Session {
    pub fn new(
        shared: &Arc<Shared>,
        id: SessionId,
        from: Option<IpAddr>,
        socket: Socket,
        outbox: Outbox,
        dialect: Dialect,
    ) -> Self {
        let vitals = Vitals::new(Instant::now());
        Self {
            shared: shared.clone(),
            id,
            from,
            socket,
            outbox,
            vitals,
            dialect,
            in_flight: InFlight::default(),
        }
    }

    async fn converse(&self, decoder: Decoder, token: Option<String>, ending: &Ending) -> Ended {
        let mut reader = Reader::new(self, decoder);
        let mut writer = self.writer();
        let end = {
            let hearing = pin!(reader.run(token));
            self.until_over(hearing, &mut writer, ending).await
        };
        reader.leave_all().await;
        self.take_leave(end, &mut writer).await
    }

    pub fn writer(&self) -> Writer<'_> {
        Writer::new(&self.outbox, &self.socket, &self.vitals, &self.dialect)
    }

    /// Writes what there is to write until something ends the session.
    pub async fn until_over(
        &self,
        hearing: Pin<&mut impl Future<Output = End>>,
        writer: &mut Writer<'_>,
        ending: &Ending,
    ) -> End {
        tokio::select! {
            end = hearing => end,
            written = writer.run() => written.map_or(End::Gone, End::Close),
            code = self.watch() => End::Close(code),
            code = ending.asked() => End::Close(code),
            code = self.outbox.expelled() => End::Close(code),
        }
    }

    /// What is still to be said. To be called when the rooms are left.
    pub async fn take_leave(&self, end: End, writer: &mut Writer<'_>) -> Ended {
        match end {
            End::Gone => Ended { end, close: None, was_told: false },
            // The answer to the client's close is queued as a control frame.
            End::Left => {
                let done = tokio::time::timeout(FAREWELL_LIMIT, writer.finish_frame()).await;
                let was_told = matches!(done, Ok(Ok(())));
                Ended { end: if was_told { end } else { End::Gone }, close: None, was_told }
            }
            End::Close(code) => {
                let was_told = self.farewell(writer, code).await;
                let close = (was_told && self.dialect.is_two_way()).then_some(code);
                Ended { end, close, was_told }
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

    /// The connection's end.
    pub async fn finish(self, ended: Ended) {
        gateway::disconnected(ended.end.code());
        self.outbox.shut();
        if ended.was_told {
            let span = log_span(&self.id);
            self.socket.finish(ended.close, FAREWELL_LIMIT).instrument(span).await;
        }
    }

    /// Does what falls due; returns when that is a close. Cancel-safe.
    async fn watch(&self) -> CloseCode {
        let config = &self.shared.parts.config;
        let mut watch = if self.dialect.is_two_way() {
            Watch::new(config, Instant::now())
        } else {
            Watch::one_way(config, Instant::now())
        };
        loop {
            match watch.due(Instant::now(), UnixMillis::now(), &self.vitals) {
                Due::Nothing { until } => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.vitals.changed.notified() => {}
                },
                Due::Ping => drop(self.socket.queue_control(self.dialect.ping())),
                Due::TokenExpiring(at) => self.outbox.answer(server::token_expiring(at)),
                Due::Close(code) => return code,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F: Future>(_: fn(&'static Arc<Shared>, SessionId, Arrival) -> F) -> usize {
        size_of::<F>()
    }

    /// With the read buffer and the decoder this is what an idle client costs.
    #[test]
    fn the_task_of_a_session_is_small() {
        let bytes = size(run);
        assert!(bytes <= 4 * 1024, "{bytes} bytes");
    }
}
