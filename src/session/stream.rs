//! A session that is only spoken to, over the connection of an HTTP request: it
//! signs in and joins its one room before the first byte, so that whatever keeps
//! it out is an ordinary answer; then it is a session like the others.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use super::conversation::Session;
use super::dialect::Dialect;
use super::ending::{End, Ending};
use super::event_stream::Encoder;
use super::rooms::Rooms;
use super::socket::Socket;
use super::{Sessions, Shared, log_span};
use crate::auth::Claims;
use crate::ids::SessionId;
use crate::limits::{ConnectionPlace, SessionLimits};
use crate::metrics::gateway::{self, Transport};
use crate::position::Position;
use crate::protocol::{CloseCode, Code, Refusal, RoomRef};
use crate::room::Outbox;
use crate::room::access::Shown;

/// What a client may still send into a stream, to no use.
const WASTE_MAX: usize = 64 * 1024;
/// What a dead client's connection is given beyond the time of a slow one.
const GRACE: Duration = Duration::from_secs(5);

/// Who wants to see which room.
pub struct Wish {
    pub claims: Claims,
    pub room: RoomRef,
    /// The last event the client has.
    pub from: Option<Position>,
}

/// In its room, and waiting for its connection. Dropped, it leaves.
pub struct Stream {
    connection: oneshot::Sender<Connection>,
}

struct Connection {
    tcp: TcpStream,
    head: Bytes,
    place: Option<Arc<ConnectionPlace>>,
}

impl Sessions {
    /// Before anything is looked up for a stream.
    pub fn admit_stream(&self, from: IpAddr) -> Result<(), Refusal> {
        if self.shared.registry.is_draining() {
            return Err(draining());
        }
        self.shared.parts.limits.handshake(from)
    }

    /// On a refusal nothing was begun.
    pub async fn open_stream(&self, wish: Wish) -> Result<Stream, Refusal> {
        let (ready, opened) = oneshot::channel();
        let (give, connection) = oneshot::channel();
        let shared = self.shared.clone();
        let request = tracing::Span::current();
        self.shared
            .parts
            .tasks
            .spawn("session", async move { run(&shared, wish, ready, connection, request).await });
        match opened.await {
            Ok(opened) => opened.map(|()| Stream { connection: give }),
            Err(_) => Err(Refusal::new(Code::Internal, "something is wrong here; the operators know")),
        }
    }
}

impl Stream {
    /// `head` is what HTTP says before the stream.
    pub fn begin(self, tcp: TcpStream, head: Bytes, place: Option<Arc<ConnectionPlace>>) {
        if self.connection.send(Connection { tcp, head, place }).is_err() {
            tracing::debug!("a stream ended before it began");
        }
    }
}

async fn run(
    shared: &Arc<Shared>,
    wish: Wish,
    ready: oneshot::Sender<Result<(), Refusal>>,
    connection: oneshot::Receiver<Connection>,
    request: Span,
) {
    let (id, ending) = (SessionId::random(), Arc::new(Ending::default()));
    let Ok(_entry) = shared.registry.enter(&id, ending.clone()) else {
        return drop(ready.send(Err(draining())));
    };
    let outbox = Outbox::for_one_room(shared.parts.config.outbox_bytes);
    let mut rooms = Rooms::new(shared, &id, &outbox);
    // Not the whole stream: it lasts, and the request's span would with it.
    let span = request.in_scope(|| log_span(&id));
    drop(request);
    let entering = enter(shared, &id, &mut rooms, &wish).instrument(span);
    let _limits = match Box::pin(entering).await {
        Ok(limits) => limits,
        Err(refusal) => return drop(ready.send(Err(refusal))),
    };
    // Whoever asked may have gone meanwhile: then the rooms are left with this.
    if ready.send(Ok(())).is_err() {
        return;
    }
    // The place is held until the stream ends.
    let Ok(Connection { tcp, head, place: _place }) = connection.await else { return };
    match socket(shared, tcp) {
        Ok(socket) => {
            let dialect = Dialect::event_stream(&id);
            let session = Session::new(shared, id, None, socket, outbox, dialect);
            session.stream(rooms, &wish.claims, head, &ending).await;
        }
        Err(error) => tracing::debug!(session = %id, %error, "connection lost before the stream began"),
    }
}

async fn enter(
    shared: &Shared,
    id: &SessionId,
    rooms: &mut Rooms,
    wish: &Wish,
) -> Result<SessionLimits, Refusal> {
    let Wish { claims, room, from } = wish;
    let limits = shared.parts.limits.open_session(&claims.user)?;
    shared.sign_in(id, claims)?;
    let admission = shared.parts.access.enter(&claims.user, room, Shown::default()).await?;
    rooms.join(None, admission, claims, *from).await?;
    Ok(limits)
}

fn socket(shared: &Shared, tcp: TcpStream) -> std::io::Result<Socket> {
    let config = &shared.parts.config;
    let socket = Socket::new(tcp)?;
    // It answers no pings. A slow one is closed for being slow, not for this.
    let silent = config.heartbeat + config.pong_timeout;
    socket.gone_after(silent.max(config.slow_consumer_timeout + GRACE))?;
    Ok(socket)
}

impl Session {
    async fn stream(self, mut rooms: Rooms, claims: &Claims, head: Bytes, ending: &Ending) {
        let _counted = gateway::session(Transport::Sse);
        self.vitals.token_until(claims.expires_at);
        let mut writer = self.writer();
        let mut first = head.to_vec();
        first.extend_from_slice(Encoder::preface().as_bytes());
        writer.begin_with(first.into());
        let end = self.until_over(pin!(hear(&self.socket)), &mut writer, ending).await;
        rooms.leave_all().await;
        let ended = self.take_leave(end, &mut writer).await;
        drop(writer);
        self.finish(ended).await;
    }
}

/// Until the client goes. It has nothing to say.
async fn hear(socket: &Socket) -> End {
    let (mut wasted, mut waste) = (0, [0; 256]);
    loop {
        match socket.read_now(&mut waste) {
            // It may have ended its side only. To one that has closed the connection,
            // the comment is answered with a reset.
            Ok(0) => {
                socket.queue_control(Encoder::COMMENT);
                socket.is_reset().await;
                return End::Gone;
            }
            Ok(read) => wasted += read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if socket.readable().await.is_err() {
                    return End::Gone;
                }
            }
            Err(_) => return End::Gone,
        }
        if wasted > WASTE_MAX {
            return End::Close(CloseCode::ProtocolViolation);
        }
    }
}

fn draining() -> Refusal {
    Refusal::new(Code::Unavailable, "this gateway is being stopped; connect again")
}
