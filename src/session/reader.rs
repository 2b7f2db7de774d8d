//! What a client says, in order, to what is done about it.

use std::num::NonZeroU32;
use std::time::Instant;

use tracing::Instrument;

use super::abuse::Abuse;
use super::asked::Asked;
use super::conversation::Session;
use super::decoder::{Decoder, Incoming, ReadError};
use super::dialect::Dialect;
use super::ending::End;
use super::log_span;
use super::rooms::Rooms;
use super::submits::Receipt;
use crate::auth::Claims;
use crate::clock::UnixMillis;
use crate::ids::{OpId, RoomId};
use crate::limits::{Flood, SessionLimits, Traffic};
use crate::log::Submit;
use crate::memory::{Owner, Reservation};
use crate::metrics::gateway;
use crate::protocol::server::{self, Welcome};
use crate::protocol::{ClientMessage, CloseCode, Code, Join, MessageId, Operation, Refusal};
use crate::room::access::Shown;

/// The longest frame before `hello`: it holds a token.
const STRANGER_FRAME_BYTES: usize = 16 * 1024;

/// The memory that a frame without a limit is charged for.
const UNBOUNDED_FRAME_BYTES: usize = 1 << 20;

pub struct Reader<'a> {
    session: &'a Session,
    decoder: Decoder,
    /// `None` before `welcome`.
    user: Option<SignedIn>,
    /// A `hello` was answered; there is no second one.
    greeted: bool,
    rooms: Rooms,
    abuse: Abuse,
    traffic: Box<Traffic>,
    /// The memory of a large frame, until it is handled.
    held: Option<Box<Reservation>>,
}

struct SignedIn {
    claims: Claims,
    limits: SessionLimits,
}

/// A refused message, and whether the session ends with it.
struct No {
    refusal: Refusal,
    close: Option<CloseCode>,
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, close: None }
    }
}

impl<'a> Reader<'a> {
    pub fn new(session: &'a Session, decoder: Decoder) -> Self {
        let rooms = Rooms::new(&session.shared, &session.id, &session.outbox);
        let traffic = Box::new(session.shared.parts.limits.traffic());
        Self { session, decoder, user: None, greeted: false, rooms, abuse: Abuse::new(), traffic, held: None }
    }

    /// Reads until the session ends. `token` was shown in the handshake.
    pub async fn run(&mut self, token: Option<String>) -> End {
        if let Some(token) = token {
            let said = self.sign_in(None, &token);
            if let Err(code) = self.settle(&Asked::by_handshake(), said) {
                return End::Close(code);
            }
        }
        loop {
            let limits = &self.session.shared.parts.limits;
            let is_stranger = self.user.is_none();
            let frame_bytes = || match limits.frame_bytes() {
                0 if is_stranger => STRANGER_FRAME_BYTES,
                bytes if is_stranger => bytes.min(STRANGER_FRAME_BYTES),
                bytes => bytes,
            };
            let incoming = self.decoder.next(&self.session.socket, frame_bytes).await;
            self.session.vitals.heard();
            let handled = match incoming {
                Ok(Incoming::Text(text)) => {
                    let handled = self.frame(&text).await;
                    self.held = None;
                    handled
                }
                Ok(Incoming::Partial) => {
                    self.reserve(frame_bytes()).await;
                    continue;
                }
                Ok(Incoming::Alive) => self.control_frame().await,
                Ok(Incoming::Close) => return End::Left,
                Err(ReadError::Gone) => return End::Gone,
                Err(ReadError::Violation(code)) => Err(code),
            };
            if let Err(code) = handled {
                return End::Close(code);
            }
            // A client that always has more to say lets others have their turn.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Leaves every room. To be called once, at the end.
    pub async fn leave_all(&mut self) {
        self.rooms.leave_all().await;
    }

    async fn control_frame(&mut self) -> Result<(), CloseCode> {
        self.charge(0, 1).await?;
        self.abuse.note(Instant::now(), CloseCode::RateAbuse)
    }

    async fn frame(&mut self, text: &str) -> Result<(), CloseCode> {
        // One message is paid for before the frame is parsed, the others after.
        self.charge(text.len(), 1).await?;
        self.wait_for_room_in_outbox().await;
        let messages = self.session.dialect.incoming(text, self.session.shared.frame_limits())?;
        self.charge(0, messages.len().saturating_sub(1)).await?;
        for inbound in messages {
            let asked = Asked::by(&inbound);
            gateway::message_received(asked.metric());
            let said = match inbound.message {
                Ok(message) => self.dispatch(&asked, message).await,
                Err(refused) => Err(refused.refusal.into()),
            };
            if said.is_err() && asked.is_submit() {
                self.answer_earlier_submits().await;
            }
            self.settle(&asked, said)?;
        }
        Ok(())
    }

    /// Returns once there is memory for a frame of at most `frame_bytes`, where 0 means
    /// any. Until then the client is not read.
    async fn reserve(&mut self, frame_bytes: usize) {
        let bytes = if frame_bytes == 0 { UNBOUNDED_FRAME_BYTES } else { frame_bytes };
        let Some(user) = &self.user else { return };
        let (memory, owner) = (self.session.shared.parts.hub.memory(), Owner::User(user.claims.user.clone()));
        let reserved = async {
            loop {
                if let Ok(reserved) = memory.reserve(&owner, bytes).await {
                    return reserved;
                }
            }
        };
        self.held = Some(Box::new(Box::pin(self.session.vitals.while_busy(reserved)).await));
    }

    /// Waits until the bytes and messages are within the session's and the user's
    /// budget.
    async fn charge(&mut self, bytes: usize, messages: usize) -> Result<(), CloseCode> {
        let user = self.user.as_ref().map(|user| &user.claims.user);
        let traffic = &mut self.traffic;
        let charged = async {
            let waits = [traffic.bytes(user, bytes).await?, traffic.messages(user, messages).await?];
            Ok::<_, Flood>(waits.contains(&true))
        };
        match self.session.vitals.while_busy(charged).await {
            Ok(has_waited) => {
                if has_waited {
                    gateway::rate_limited("traffic");
                }
                Ok(())
            }
            Err(Flood) => Err(CloseCode::RateAbuse),
        }
    }

    /// Submits are answered in order. Those that reach a lane are by the lane; a
    /// submit that is refused before waits here until it is its turn.
    async fn answer_earlier_submits(&self) {
        let Session { vitals, in_flight, .. } = self.session;
        if !in_flight.is_empty() {
            vitals.while_busy(in_flight.none()).await;
        }
    }

    /// A client that asks without reading the answers is not read either.
    async fn wait_for_room_in_outbox(&self) {
        let session = self.session;
        if session.outbox.waiting_bytes() > session.shared.parts.config.outbox_bytes {
            // Closed means that the writer ends the session.
            session.vitals.while_busy(session.outbox.drained()).await.unwrap_or_default();
        }
    }

    async fn dispatch(&mut self, asked: &Asked, message: ClientMessage) -> Result<(), No> {
        let id = asked.id.as_ref();
        match message {
            ClientMessage::Hello { token, .. } => self.hello(id, token.as_deref()),
            ClientMessage::Ping { t } => {
                self.session.outbox.answer(server::pong(id, t.as_deref(), UnixMillis::now()));
                Ok(())
            }
            _ if self.user.is_none() => Err(say_hello_first().into()),
            // Boxed: joins are rare and large, sessions are many and idle.
            ClientMessage::Join(join) => {
                let span = log_span(&self.session.id);
                Ok(Box::pin(self.join(id, join).instrument(span)).await?)
            }
            ClientMessage::Leave { room } => {
                self.rooms.leave(room).await;
                self.session.outbox.answer(server::left(id, room));
                Ok(())
            }
            ClientMessage::Submit { room, op, operation } => {
                let received = Instant::now();
                let submitted = self.submit(id, room, op, operation, received).await;
                if submitted.is_err() {
                    gateway::submit_done(gateway::Submit::Refused, received.elapsed());
                }
                Ok(submitted?)
            }
            ClientMessage::Signal { room, data } => Ok(self.signal(room, &data)?),
            ClientMessage::Refresh { token } => self.refresh(id, &token),
        }
    }

    fn hello(&mut self, id: Option<&MessageId>, token: Option<&str>) -> Result<(), No> {
        match (token, &self.user) {
            _ if self.greeted => Err(Refusal::new(Code::BadMessage, "hello was said already").into()),
            (None, Some(_)) => {
                self.greeted = true;
                self.welcome(id);
                Ok(())
            }
            (Some(_), Some(_)) => {
                Err(Refusal::new(Code::BadMessage, "the handshake brought a token already").into())
            }
            (Some(token), None) => {
                self.greeted = true;
                self.sign_in(id, token)
            }
            (None, None) => Err(No {
                refusal: Refusal::new(Code::Unauthenticated, "hello needs a token"),
                close: Some(CloseCode::Unauthenticated),
            }),
        }
    }

    fn sign_in(&mut self, id: Option<&MessageId>, token: &str) -> Result<(), No> {
        let parts = &self.session.shared.parts;
        let claims = parts.verifier.verify(token).map_err(|refusal| {
            let code = match refusal.code {
                Code::TokenExpired => CloseCode::TokenExpired,
                _ => CloseCode::Unauthenticated,
            };
            No { refusal, close: Some(code) }
        })?;
        let limits = parts
            .limits
            .open_session(&claims.user)
            .map_err(|refusal| No { refusal, close: Some(CloseCode::Overload) })?;
        self.note(&claims)?;
        self.session.vitals.token_until(claims.expires_at);
        self.user = Some(SignedIn { claims, limits });
        self.welcome(id);
        Ok(())
    }

    fn note(&self, claims: &Claims) -> Result<(), No> {
        self.session
            .shared
            .sign_in(&self.session.id, claims)
            .map_err(|refusal| No { refusal, close: Some(CloseCode::Unauthenticated) })
    }

    fn welcome(&self, id: Option<&MessageId>) {
        let Some(SignedIn { claims, .. }) = &self.user else { return };
        let shared = &self.session.shared;
        let heartbeat = shared.parts.config.heartbeat.as_millis();
        self.session.outbox.answer(server::welcome(
            id,
            &Welcome {
                session: &self.session.id,
                node: &shared.parts.node,
                user: &claims.user,
                name: &claims.name,
                heartbeat_ms: u64::try_from(heartbeat).unwrap_or(u64::MAX),
                limits: &shared.announced_limits(),
            },
        ));
    }

    async fn join(&mut self, id: Option<&MessageId>, join: Join) -> Result<(), Refusal> {
        let Session { shared, vitals, .. } = self.session;
        let SignedIn { claims, limits } = self.user.as_mut().ok_or_else(say_hello_first)?;
        limits.join()?;
        let (password, invite) = (join.password.as_deref(), join.invite.as_deref());
        let shown = Shown { password, invite, from: self.session.from };
        let entering = shared.parts.access.enter(&claims.user, &join.room, shown);
        let admission = vitals.while_busy(entering).await?;
        self.rooms.check_limit(admission.room, shared.parts.limits.configured().rooms_per_session)?;
        let mut from = join.from;
        if let Dialect::Legacy(translator) = &self.session.dialect {
            let is_joined = self.rooms.is_joined(admission.room);
            let preparing =
                Box::pin(shared.prepare_legacy_join(translator, claims, admission.room, is_joined));
            from = match vitals.while_busy(preparing).await? {
                Some(from) => Some(from),
                None => return Ok(()),
            };
        }
        let joining = Box::pin(self.rooms.join(id.cloned(), admission, claims, from));
        vitals.while_busy(joining).await
    }

    async fn submit(
        &mut self,
        id: Option<&MessageId>,
        room: RoomId,
        op: OpId,
        operation: Operation,
        received: Instant,
    ) -> Result<(), Refusal> {
        let Session { shared, vitals, outbox, in_flight, .. } = self.session;
        let SignedIn { claims, limits } = self.user.as_mut().ok_or_else(say_hello_first)?;
        limits.submit()?;
        vitals.while_busy(shared.parts.limits.user_submits(&claims.user, NonZeroU32::MIN)).await?;
        self.rooms.check_joined(room)?;
        let place = match in_flight.try_enter() {
            Some(place) => place,
            None => vitals.while_busy(in_flight.enter()).await,
        };
        let receipt = Receipt { id: id.cloned(), room, op: op.clone(), outbox: outbox.clone(), place };
        let submit = Submit::new(room, claims.user.clone(), claims.authority, op, operation);
        let deadline = received + shared.parts.submit_timeout;
        let appender = &shared.parts.appender;
        let trace = appender.traces().frame(room, "session", received);
        let answer = Box::new(move |outcome| receipt.settle(outcome));
        appender.append(submit, claims.user.clone(), deadline, trace, answer)
    }

    fn signal(&mut self, room: RoomId, data: &str) -> Result<(), Refusal> {
        let SignedIn { claims, limits } = self.user.as_mut().ok_or_else(say_hello_first)?;
        limits.signal()?;
        self.rooms.check_joined(room)?;
        self.session.shared.parts.hub.signal(room, &self.session.id, &claims.user, data)
    }

    fn refresh(&mut self, id: Option<&MessageId>, token: &str) -> Result<(), No> {
        let SignedIn { claims, .. } = self.user.as_ref().ok_or_else(say_hello_first)?;
        let fresh = self.session.shared.parts.verifier.verify(token)?;
        if fresh.user != claims.user {
            return Err(Refusal::new(
                Code::Forbidden,
                "the token is another user's; the old one stays in force",
            )
            .into());
        }
        self.note(&fresh)?;
        self.session.vitals.token_until(fresh.expires_at);
        self.session.outbox.answer(server::refreshed(id, fresh.expires_at));
        if let Some(user) = &mut self.user {
            user.claims = fresh;
        }
        Ok(())
    }

    /// Tells the client of a refusal; `Err` when the session ends with it.
    fn settle(&mut self, asked: &Asked, said: Result<(), No>) -> Result<(), CloseCode> {
        let Err(No { refusal, close }) = said else { return Ok(()) };
        gateway::rejected(refusal.code);
        let abuse = match refusal.code {
            Code::RateLimited => {
                gateway::rate_limited(asked.metric());
                Some(CloseCode::RateAbuse)
            }
            Code::BadJson | Code::BadMessage | Code::TooLarge | Code::TooDeep | Code::UnknownType => {
                Some(CloseCode::ProtocolViolation)
            }
            _ => None,
        };
        self.session.outbox.answer(asked.refusal(&refusal));
        match (close, abuse) {
            (Some(code), _) => Err(code),
            (None, Some(code)) => self.abuse.note(Instant::now(), code),
            (None, None) => Ok(()),
        }
    }
}

fn say_hello_first() -> Refusal {
    Refusal::new(Code::Unauthenticated, "say hello first")
}
