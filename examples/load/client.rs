//! A client of `roomgate.v1` that is cheap enough to run thousands of.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::Failure;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    socket: WebSocketStream<TcpStream>,
}

/// What matters of a message from the server.
#[derive(Debug, Deserialize)]
pub struct Heard {
    #[serde(rename = "type")]
    pub message_type: String,
    pub op: Option<String>,
    #[serde(default)]
    pub last: bool,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
}

impl Client {
    /// `url` is a node's. Returns when the server said `welcome`.
    pub async fn connect(url: &str, token: &str) -> Result<Self, Failure> {
        tokio::time::timeout(PATIENCE, Self::open(url, token)).await?
    }

    async fn open(url: &str, token: &str) -> Result<Self, Failure> {
        let authority = url.trim_start_matches("http://").trim_end_matches('/');
        let tcp = TcpStream::connect(authority).await?;
        tcp.set_nodelay(true)?;
        let mut request = format!("ws://{authority}/v1/ws").into_client_request()?;
        let protocols = HeaderValue::from_str(&format!("roomgate.v1, bearer.{token}"))?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocols);
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let (socket, _) = tokio_tungstenite::client_async_with_config(request, tcp, Some(config)).await?;
        let mut client = Self { socket };
        client.wait_for(|heard| heard.message_type == "welcome").await?;
        Ok(client)
    }

    /// Returns when the room's state has arrived.
    pub async fn join(&mut self, room: u64) -> Result<(), Failure> {
        self.say(&json!({ "type": "join", "room": room })).await?;
        let arrived =
            |heard: &Heard| matches!(heard.message_type.as_str(), "snapshot" | "events") && heard.last;
        tokio::time::timeout(PATIENCE, self.wait_for(arrived)).await?
    }

    pub async fn say(&mut self, message: &Value) -> Result<(), Failure> {
        self.send(message.to_string()).await
    }

    pub async fn send(&mut self, text: String) -> Result<(), Failure> {
        Ok(self.socket.send(Message::Text(text.into())).await?)
    }

    /// The next frame's text. Cancel-safe.
    pub async fn text(&mut self) -> Result<Utf8Bytes, Failure> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(close))) => {
                    return Err(format!("closed by the server: {close:?}").into());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the connection is gone".into()),
            }
        }
    }

    /// The messages of the next frame. Cancel-safe.
    pub async fn hear(&mut self) -> Result<Vec<Heard>, Failure> {
        let text = self.text().await?;
        if text.starts_with('[') {
            Ok(serde_json::from_str(&text)?)
        } else {
            Ok(vec![serde_json::from_str(&text)?])
        }
    }

    async fn wait_for(&mut self, wanted: impl Fn(&Heard) -> bool) -> Result<(), Failure> {
        loop {
            for heard in self.hear().await? {
                if matches!(heard.message_type.as_str(), "error" | "reject") {
                    return Err(format!("refused: {heard:?}").into());
                }
                if wanted(&heard) {
                    return Ok(());
                }
            }
        }
    }
}
