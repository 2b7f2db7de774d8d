//! A reader of an event stream, as a browser's `EventSource` is one. It checks
//! that every `id` is where the reader is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use roomgate::dev::Answer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::view::View;
use crate::world::Person;

/// Longer than any promise.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Reader {
    socket: BufReader<TcpStream>,
    pub headers: BTreeMap<String, String>,
    /// What an `EventSource` would come back with.
    pub last_id: Option<String>,
    pub retry_ms: Option<u64>,
    pub comments: usize,
    pub view: View,
    /// What nobody waited for yet, pages and events not among it.
    inbox: VecDeque<Value>,
    /// The names of all events, in order.
    pub names: Vec<String>,
    pub ended: bool,
}

/// How a stream is asked for.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub token: Option<String>,
    pub last_id: Option<String>,
    /// With its question mark.
    pub query: String,
    pub method: Option<&'static str>,
}

impl Ask {
    pub fn by(person: &Person) -> Self {
        Self { token: Some(person.token.clone()), ..Self::default() }
    }
}

impl Reader {
    /// Of a room that lets `person` in, from its state on.
    pub async fn of(base: &str, person: &Person, room: u64) -> Self {
        Self::open(base, room, &Ask::by(person)).await.unwrap_or_else(|answer| panic!("{}", answer.text))
    }

    /// Goes on where another one stopped.
    pub async fn after(base: &str, person: &Person, room: u64, before: Self) -> Self {
        let ask = Ask { last_id: before.last_id.clone(), ..Ask::by(person) };
        let mut reader =
            Self::open(base, room, &ask).await.unwrap_or_else(|answer| panic!("{}", answer.text));
        reader.view = View { live: false, loading: BTreeMap::new(), ..before.view };
        reader.last_id = before.last_id;
        reader
    }

    /// `Err` is the answer, if it is no stream.
    pub async fn open(base: &str, room: impl std::fmt::Display, ask: &Ask) -> Result<Self, Answer> {
        let Ask { token, last_id, query, method } = ask;
        let host = base.trim_start_matches("http://");
        let socket = TcpStream::connect(host).await.unwrap();
        let mut socket = BufReader::new(socket);
        let method = method.unwrap_or("GET");
        let mut head = format!("{method} /v1/rooms/{room}/live{query} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in
            [("Authorization: Bearer ", token), ("Last-Event-ID: ", last_id)].map(|(n, v)| (n, v.as_deref()))
        {
            if let Some(value) = value {
                head.push_str(&format!("{name}{value}\r\n"));
            }
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let status = line(&mut socket).await.expect("an answer");
        let mut headers = BTreeMap::new();
        while let Some(header) = line(&mut socket).await.filter(|line| !line.is_empty()) {
            let (name, value) = header.split_once(": ").unwrap();
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let status: u16 = status.split(' ').nth(1).unwrap().parse().unwrap();
        if headers.get("content-type").is_none_or(|kind| kind != "text/event-stream") {
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
            socket.read_exact(&mut body).await.unwrap();
            let text = String::from_utf8(body).unwrap();
            let status = status.try_into().unwrap();
            return Err(Answer { status, headers: Default::default(), text });
        }
        assert_eq!(status, 200);
        assert!(!headers.contains_key("transfer-encoding"), "{headers:?}");
        Ok(Self {
            socket,
            headers,
            last_id: None,
            retry_ms: None,
            comments: 0,
            view: View::default(),
            inbox: VecDeque::new(),
            names: Vec::new(),
            ended: false,
        })
    }

    /// Waits until everything up to `seq` has been seen.
    pub async fn catches_up(&mut self, seq: u64) {
        self.until(|reader| reader.view.live && reader.view.seq >= seq).await;
    }

    /// The first other message that fits.
    pub async fn wait(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        self.until(|reader| reader.inbox.iter().any(&fits)).await;
        let place = self.inbox.iter().position(&fits).unwrap();
        self.inbox.remove(place).unwrap()
    }

    pub async fn ends(&mut self) {
        while !self.ended {
            tokio::time::timeout(PATIENCE, self.block()).await.expect("the stream ends");
        }
    }

    pub async fn until(&mut self, so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !so(self) {
                assert!(!self.ended, "it ended; have {:?}", self.inbox);
                self.block().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("what is waited for");
    }

    /// Everything up to the next empty line. Only at an end is it left half-way.
    async fn block(&mut self) {
        let (mut id, mut name, mut data) = (None, None, String::new());
        loop {
            let Some(line) = line(&mut self.socket).await else {
                self.ended = true;
                return;
            };
            match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                None if line.is_empty() => break,
                Some(("", _)) => self.comments += 1,
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("event", value)) => name = Some(value.to_owned()),
                Some(("data", value)) => data.push_str(value),
                Some(("retry", value)) => self.retry_ms = Some(value.parse().unwrap()),
                _ => panic!("{line}"),
            }
        }
        if let Some(name) = name {
            self.event(id, name, serde_json::from_str(&data).unwrap());
        } else {
            assert!(id.is_none() && data.is_empty());
        }
    }

    fn event(&mut self, id: Option<String>, name: String, message: Value) {
        assert_eq!(message["type"], name, "{message}");
        match name.as_str() {
            "snapshot" => self.view.snapshot(&message),
            "events" => self.view.events(&message),
            "event" => self.view.event(&message),
            _ => self.inbox.push_back(message),
        }
        self.names.push(name);
        if let Some(id) = id {
            let [epoch, seq] = [self.view.epoch, self.view.seq];
            assert_eq!(id, format!("{epoch}.{seq}"), "an id that is not where the reader is");
            assert!(self.view.loading.is_empty(), "an id before the last page");
            self.last_id = Some(id);
        }
    }
}

/// Without its end; none at the end of all.
async fn line(socket: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    match socket.read_line(&mut line).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

/// A message, as the body of a submit.
pub fn says(text: &str) -> Value {
    json!({"kind": "message", "data": text})
}
