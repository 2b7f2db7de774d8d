//! A client of roomgate.v1 that checks what it is told: every event of a joined
//! room follows the one before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::view::View;
use crate::world::Person;

pub struct Client {
    pub person: Person,
    /// The node it is connected to, by its own account.
    pub node: String,
    /// Likewise its session.
    pub session: String,
    pub rooms: BTreeMap<u64, View>,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Messages that nobody waited for yet.
    inbox: VecDeque<Value>,
    closed: Option<Option<CloseFrame>>,
}

/// Longer than any promise; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    /// Connects and says hello.
    pub async fn connect(base: &str, person: &Person) -> Self {
        let mut client = Self::silent(base, person).await;
        let welcome = client.ask(&json!({"type": "hello", "token": person.token}), "welcome").await;
        assert_eq!(welcome["user"], person.user.as_str());
        client.node = welcome["node"].as_str().unwrap().to_owned();
        client.session = welcome["session"].as_str().unwrap().to_owned();
        client
    }

    /// As [`Client::connect`]; none if there is nobody, or nobody who takes it in.
    pub async fn try_connect(base: &str, person: &Person) -> Option<Self> {
        let mut client = Self::try_silent(base, person).await.ok()?;
        client.try_send(&json!({"type": "hello", "token": person.token})).await;
        let welcome = client.hears().await.filter(|message| message["type"] == "welcome")?;
        client.node = welcome["node"].as_str().unwrap().to_owned();
        Some(client)
    }

    /// Connects without saying anything.
    pub async fn silent(base: &str, person: &Person) -> Self {
        Self::try_silent(base, person).await.unwrap()
    }

    async fn try_silent(base: &str, person: &Person) -> Result<Self, Error> {
        let url = format!("{}/v1/ws", base.replacen("http", "ws", 1));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "roomgate.v1".parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Self {
            person: person.clone(),
            node: String::new(),
            session: String::new(),
            rooms: BTreeMap::new(),
            socket,
            inbox: VecDeque::new(),
            closed: None,
        })
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends, perhaps into a connection that has ended: nobody may hear it.
    pub async fn try_send(&mut self, message: &Value) {
        self.socket.send(Message::text(message.to_string())).await.ok();
    }

    /// A frame as it is, well formed or not.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends, and waits for an answer of type `answer`. A refusal panics.
    pub async fn ask(&mut self, message: &Value, answer: &str) -> Value {
        self.send(message).await;
        let got = self.wait(|m| m["type"] == answer || m["type"] == "error").await;
        assert_eq!(got["type"], answer, "{got}");
        got
    }

    /// Sends a frame and returns the `error` it gets.
    pub async fn refused(&mut self, frame: &str) -> Value {
        self.send_text(frame).await;
        self.wait(|m| m["type"] == "error").await
    }

    /// Joins and waits until the room is live.
    pub async fn join(&mut self, room: u64) -> Value {
        self.rooms.insert(room, View::default());
        self.join_with(json!({"room": room})).await
    }

    /// Joins, again as often and as late as it is told.
    pub async fn joins_in_time(&mut self, room: u64) {
        self.rooms.insert(room, View::default());
        loop {
            self.send(&json!({"type": "join", "room": room})).await;
            let answer = self.wait(|m| m["type"] == "joined" || m["type"] == "error").await;
            if answer["type"] == "joined" {
                return self.until(|client| client.rooms[&room].live).await;
            }
            let delay = answer["retry_after_ms"].as_u64().unwrap_or_else(|| panic!("{answer}"));
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }

    /// Goes on where `view` stopped.
    pub async fn resume(&mut self, room: u64, view: View) -> Value {
        let from = view.position();
        self.rooms.insert(room, View { live: false, ..view });
        self.join_with(json!({"room": room, "from": from})).await
    }

    /// The same, and whether it went well; if not, the view is still there.
    pub async fn try_resume(&mut self, room: u64, view: View) -> bool {
        let join = json!({"type": "join", "room": room, "from": view.position()});
        self.rooms.insert(room, View { live: false, ..view });
        self.try_send(&join).await;
        let patience = tokio::time::Instant::now() + PATIENCE;
        while self.closed.is_none() && !self.inbox.iter().any(|message| message["type"] == "error") {
            if self.rooms[&room].live {
                return true;
            }
            let received = tokio::time::timeout_at(patience, self.receive()).await;
            assert!(received.is_ok(), "{} waited in vain", self.person.user);
        }
        false
    }

    async fn join_with(&mut self, mut request: Value) -> Value {
        request["type"] = "join".into();
        let room = request["room"].as_u64().unwrap();
        let joined = self.ask(&request, "joined").await;
        self.until(|client| client.rooms[&room].live).await;
        joined
    }

    /// Submits, and waits for the ack or reject.
    pub async fn submit(&mut self, room: u64, op: &str, body: &Value) -> Value {
        self.send(&submit(room, op, body)).await;
        self.answer(room, op).await
    }

    /// Submits, again as often and as late as it is told.
    pub async fn submits_in_time(&mut self, room: u64, op: &str, body: &Value) -> Value {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.submit(room, op, body).await;
            if answer["type"] == "ack" {
                return answer;
            }
            assert!(tokio::time::Instant::now() < until, "still {answer}");
            let delay = answer["retry_after_ms"].as_u64().unwrap_or_else(|| panic!("{answer}"));
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }

    /// The ack or reject of a submit that was sent.
    pub async fn answer(&mut self, room: u64, op: &str) -> Value {
        self.wait(|m| (m["type"] == "ack" || m["type"] == "reject") && m["room"] == room && m["op"] == op)
            .await
    }

    /// Waits until everything up to `seq` has been seen.
    pub async fn catches_up(&mut self, room: u64, seq: u64) {
        self.until(|client| client.rooms[&room].seq >= seq).await;
    }

    /// Ends without a word, as a lost connection does.
    pub fn vanish(self) -> BTreeMap<u64, View> {
        self.rooms
    }

    /// The first message that fits; others are kept, and events applied.
    pub async fn wait(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let patience = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.inbox.iter().position(&fits) {
                return self.inbox.remove(place).unwrap();
            }
            assert!(self.closed.is_none(), "closed with {:?}; have {:?}", self.closed, self.inbox);
            let received = tokio::time::timeout_at(patience, self.receive()).await;
            assert!(received.is_ok(), "{} waited in vain; have {:?}", self.person.user, self.inbox);
        }
    }

    /// The next message that nobody waited for; none once the connection has
    /// ended, however it did.
    pub async fn hears(&mut self) -> Option<Value> {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while self.inbox.is_empty() && self.closed.is_none() {
            let received = tokio::time::timeout_at(patience, self.receive()).await;
            assert!(received.is_ok(), "{} waited in vain", self.person.user);
        }
        self.inbox.pop_front()
    }

    /// Messages that nobody waited for.
    pub fn untaken(&self) -> &VecDeque<Value> {
        &self.inbox
    }

    pub async fn until(&mut self, so: impl Fn(&Self) -> bool) {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while !so(self) {
            assert!(self.closed.is_none(), "closed with {:?}", self.closed);
            let received = tokio::time::timeout_at(patience, self.receive()).await;
            assert!(received.is_ok(), "{} waited in vain; rooms {:?}", self.person.user, self.rooms);
        }
    }

    /// Takes what comes until `done`.
    pub async fn listens_until(&mut self, done: impl Future) {
        tokio::pin!(done);
        loop {
            tokio::select! {
                _ = &mut done => return,
                () = self.receive() => assert!(self.closed.is_none(), "closed with {:?}", self.closed),
            }
        }
    }

    /// Waits for the end and returns the close code.
    pub async fn ends(&mut self) -> Option<u16> {
        while self.closed.is_none() {
            tokio::time::timeout(PATIENCE, self.receive()).await.expect("the connection ends");
        }
        self.closed.clone().flatten().map(|frame| frame.code.into())
    }

    /// Takes the next frame.
    async fn receive(&mut self) {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text).unwrap() {
                Value::Array(messages) => messages.into_iter().for_each(|m| self.take(m)),
                message => self.take(message),
            },
            Some(Ok(Message::Close(frame))) => self.closed = Some(frame),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.closed = Some(self.closed.take().flatten()),
        }
    }

    fn take(&mut self, message: Value) {
        let view = message["room"].as_u64().and_then(|room| self.rooms.get_mut(&room));
        match (message["type"].as_str().unwrap(), view) {
            ("snapshot", Some(view)) => view.snapshot(&message),
            ("events", Some(view)) => view.events(&message),
            ("event", Some(view)) => view.event(&message),
            _ => self.inbox.push_back(message),
        }
    }
}

pub fn submit(room: u64, op: &str, body: &Value) -> Value {
    let mut message = body.clone();
    message["type"] = "submit".into();
    message["room"] = room.into();
    message["op"] = op.into();
    message
}

/// A shape of schema `drawing`.
pub fn rect(id: &str, x: i32) -> Value {
    json!({"id": id, "type": "rect", "x": x, "y": 2, "width": 3.5, "height": 4})
}
