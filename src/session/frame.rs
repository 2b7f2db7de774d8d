//! Outgoing frames: RFC 6455's few header bytes, and messages joined into one
//! frame without copying them; or bytes as they are.

use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::protocol::{CloseCode, Json};

/// The most one data frame is made of, so that its slices fit the stack.
pub const CHUNKS_PER_FRAME: usize = 32;

/// Two bytes of header and 125 of payload.
pub const CONTROL_FRAME_MAX: usize = 127;

/// Header, comma and text for each chunk, closing bracket.
const SLICES: usize = 2 * CHUNKS_PER_FRAME + 1;

const FIN_TEXT: u8 = 0x81;
const FIN_CLOSE: u8 = 0x88;
/// A ping without payload.
pub const PING_FRAME: [u8; 2] = [0x89, 0];

/// One text frame: a message as it is, or several as an array. Or no frame at
/// all, but what is to be sent in one piece.
#[derive(Debug)]
pub struct DataFrame {
    chunks: Vec<Bytes>,
    /// Header and, for an array, the opening bracket.
    head: [u8; 11],
    head_len: usize,
    is_array: bool,
    total: usize,
    sent: usize,
}

impl DataFrame {
    /// `chunks`: 1 to [`CHUNKS_PER_FRAME`].
    pub fn new(chunks: Vec<Json>) -> Self {
        debug_assert!((1..=CHUNKS_PER_FRAME).contains(&chunks.len()));
        let is_array = chunks.iter().map(Json::messages).sum::<usize>() != 1;
        let text: usize = chunks.iter().map(Json::len).sum();
        let commas = chunks.len().saturating_sub(1);
        let payload = text + commas + if is_array { 2 } else { 0 };
        let mut head = [0; 11];
        let mut head_len = write_header(&mut head, FIN_TEXT, payload);
        let total = head_len + payload;
        if is_array {
            head[head_len] = b'[';
            head_len += 1;
        }
        let chunks = chunks.into_iter().map(Json::into_bytes).collect();
        Self { chunks, head, head_len, is_array, total, sent: 0 }
    }

    /// These bytes and no more.
    pub fn plain(bytes: Bytes) -> Self {
        let total = bytes.len();
        Self { chunks: vec![bytes], head: [0; 11], head_len: 0, is_array: false, total, sent: 0 }
    }

    pub fn is_sent(&self) -> bool {
        self.sent == self.total
    }

    /// Nothing of it has reached the socket.
    pub fn is_untouched(&self) -> bool {
        self.sent == 0
    }

    /// Offers what is left to `write`, which tells how much of it went.
    pub fn write_some(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        let mut skip = self.sent;
        let mut add = |bytes| {
            if let Some(slice) = rest(bytes, &mut skip) {
                slices[used] = IoSlice::new(slice);
                used += 1;
            }
        };
        add(&self.head[..self.head_len]);
        for (index, chunk) in self.chunks.iter().enumerate() {
            if index > 0 {
                add(b",");
            }
            add(chunk);
        }
        if self.is_array {
            add(b"]");
        }
        let sent = write(&slices[..used])?;
        self.sent += sent;
        Ok(sent)
    }
}

/// What of `bytes` lies beyond the first `skip` bytes; none if nothing does.
fn rest<'a>(bytes: &'a [u8], skip: &mut usize) -> Option<&'a [u8]> {
    let skipped = bytes.len().min(*skip);
    *skip -= skipped;
    let rest = &bytes[skipped..];
    (!rest.is_empty()).then_some(rest)
}

pub fn close_frame(code: CloseCode) -> Vec<u8> {
    let reason = code.reason().as_bytes();
    let length = u8::try_from(2 + reason.len()).expect("reasons are short constants");
    let mut frame = vec![FIN_CLOSE, length];
    frame.extend_from_slice(&code.number().to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

/// Returns the header's length.
fn write_header(head: &mut [u8; 11], first: u8, payload: usize) -> usize {
    head[0] = first;
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(short), _) if short < 126 => {
            head[1] = short;
            2
        }
        (_, Ok(medium)) => {
            head[1] = 126;
            head[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends in pieces of `step` bytes, as a slow socket takes them.
    fn sent(mut frame: DataFrame, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !frame.is_sent() {
            frame
                .write_some(|slices| {
                    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    let taken = bytes.len().min(step);
                    all.extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                })
                .unwrap();
        }
        all
    }

    fn json(text: &str) -> Json {
        Json::one(text.to_owned())
    }

    #[test]
    fn one_message_goes_as_it_is_and_several_as_an_array() {
        let one = sent(DataFrame::new(vec![json(r#"{"a":1}"#)]), usize::MAX);
        assert_eq!(one, b"\x81\x07{\"a\":1}");
        let two = sent(DataFrame::new(vec![json("{}"), json("{}")]), usize::MAX);
        assert_eq!(two, b"\x81\x07[{},{}]");
        let joined = Json::join(&[json("{}"), json("{}")]);
        assert_eq!(sent(DataFrame::new(vec![joined]), usize::MAX), b"\x81\x07[{},{}]");
    }

    #[test]
    fn a_frame_is_the_same_however_it_is_cut() {
        let chunks: Vec<Json> = (0..CHUNKS_PER_FRAME).map(|n| json(&format!("{{\"n\":{n}}}"))).collect();
        let whole = sent(DataFrame::new(chunks.clone()), usize::MAX);
        for step in [1, 2, 3, 7, 100] {
            assert_eq!(sent(DataFrame::new(chunks.clone()), step), whole, "step {step}");
        }
    }

    #[test]
    fn lengths_use_the_shortest_form() {
        for (payload, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let text = "x".repeat(payload);
            let bytes = sent(DataFrame::new(vec![json(&text)]), usize::MAX);
            assert_eq!(bytes.len(), payload + header, "payload {payload}");
            assert_eq!(&bytes[header..], text.as_bytes());
        }
    }

    #[test]
    fn a_close_frame_names_code_and_reason() {
        assert_eq!(close_frame(CloseCode::SlowConsumer), b"\x88\x0f\x0f\xa0slow_consumer");
    }
}
