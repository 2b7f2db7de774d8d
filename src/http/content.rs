//! The content of a request: its body without the coding it was sent in.
//!
//! Every route that takes a body reads it through here. Guarantees: a coding that
//! is not undone here is refused before anything is read or spent; an expanded
//! piece is small however little was sent for it, so that the limits of the routes
//! bound what a compressed body may cost.

use std::io::Write;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, HeaderName, TRANSFER_ENCODING};
use axum::http::{HeaderMap, StatusCode};
use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;

use super::body::discard;
use super::error::{Answer, ApiError};

/// Reads a body piece by piece.
pub(super) struct Content {
    body: Body,
    gzip: Option<Gzip>,
}

struct Gzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Bytes of the body that were not expanded yet.
    packed: Bytes,
    /// An empty body is no gzip file, and is taken for empty content.
    has_begun: bool,
    has_ended: bool,
}

impl Content {
    /// Refused with 415 if the body is in another coding than gzip.
    pub fn of(headers: &HeaderMap, body: Body) -> Answer<Self> {
        let gzip = is_gzip(headers)?.then(|| Gzip {
            decoder: MultiGzDecoder::new(Vec::new()),
            packed: Bytes::new(),
            has_begun: false,
            has_ended: false,
        });
        Ok(Self { body, gzip })
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Answer<Option<Bytes>> {
        let Some(gzip) = &mut self.gzip else { return received(&mut self.body).await };
        loop {
            // A body that expands to much is read for long without a pause.
            tokio::task::coop::consume_budget().await;
            if let Some(piece) = gzip.expand()? {
                return Ok(Some(piece));
            }
            if gzip.has_ended {
                return Ok(None);
            }
            match received(&mut self.body).await? {
                Some(packed) => gzip.packed = packed,
                None => gzip.end()?,
            }
        }
    }

    /// Reads on to no use, so that the client sees why it was refused.
    pub async fn discard(self) {
        discard(self.body).await;
    }
}

impl Gzip {
    /// `None` if more of the body is needed first.
    fn expand(&mut self) -> Answer<Option<Bytes>> {
        while !self.packed.is_empty() && self.decoder.get_ref().is_empty() {
            self.has_begun = true;
            let taken = self.decoder.write(&self.packed).map_err(|_| corrupt())?;
            self.packed.advance(taken);
        }
        let piece = std::mem::take(self.decoder.get_mut());
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    fn end(&mut self) -> Answer<()> {
        self.has_ended = true;
        if self.has_begun {
            self.decoder.try_finish().map_err(|_| corrupt())?;
        }
        // The decoder now gives out the last piece.
        Ok(())
    }
}

async fn received(body: &mut Body) -> Answer<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "client left in the middle of a body");
            ApiError::bad_message("the body is incomplete")
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn is_gzip(headers: &HeaderMap) -> Answer<bool> {
    let mut codings = codings(headers, CONTENT_ENCODING)?;
    codings.retain(|coding| coding != "identity");
    let mut transfer = self::codings(headers, TRANSFER_ENCODING)?;
    transfer.retain(|coding| coding != "chunked");
    match (codings.as_slice(), transfer.as_slice()) {
        ([], []) => Ok(false),
        ([coding], []) if coding == "gzip" || coding == "x-gzip" => Ok(true),
        (_, []) => Err(unsupported("send the body plain, or with Content-Encoding: gzip")),
        (_, _) => Err(unsupported("send the body with Transfer-Encoding: chunked, or with its length")),
    }
}

/// In the order in which they were applied, in small letters.
fn codings(headers: &HeaderMap, name: HeaderName) -> Answer<Vec<String>> {
    let mut codings = Vec::new();
    for value in headers.get_all(&name) {
        let value = value.to_str().map_err(|_| unsupported("the body's coding is not text"))?;
        codings.extend(value.split(',').map(|coding| coding.trim().to_ascii_lowercase()));
    }
    codings.retain(|coding| !coding.is_empty());
    Ok(codings)
}

fn unsupported(message: &'static str) -> ApiError {
    ApiError::bad_message(message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

fn corrupt() -> ApiError {
    ApiError::bad_message("the body is not what gzip writes, or is incomplete")
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::stream;

    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// The pieces of a body that arrives in pieces of `size` bytes.
    async fn pieces(body: &[u8], size: usize) -> Answer<Vec<Bytes>> {
        let chunks: Vec<_> = body.chunks(size).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        let mut content = Content::of(&headers, Body::from_stream(stream::iter(chunks)))?;
        let mut pieces = Vec::new();
        while let Some(piece) = content.next().await? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    #[tokio::test]
    async fn content_is_the_same_however_its_body_arrives() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let members = [packed(&text[..7]), packed(b""), packed(&text[7..])].concat();
        for size in [1, 2, 17, 1000, members.len()] {
            assert_eq!(pieces(&members, size).await.unwrap().concat(), text, "in pieces of {size}");
            assert!(pieces(&members[..members.len() - 1], size).await.is_err(), "cut, in pieces of {size}");
        }
        assert!(pieces(b"", 1).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_body_that_expands_a_thousandfold_does_so_in_small_pieces() {
        let bomb = packed(&vec![0; 64 << 20]);
        let pieces = pieces(&bomb, bomb.len()).await.unwrap();
        let largest = pieces.iter().map(Bytes::len).max();
        assert!(largest.is_some_and(|largest| largest <= 64 << 10), "{largest:?}");
    }
}
