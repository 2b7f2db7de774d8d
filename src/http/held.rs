//! A body that keeps the memory of its answer reserved until the client has taken it.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::charge::Held;

/// hyper takes a whole frame at once and is done with the body after the last one, though
/// that waits for the client. So a body that is one large frame is handed out in pieces.
const PIECE_BYTES: usize = 64 << 10;

struct HeldBody {
    body: Body,
    rest: Bytes,
    most: usize,
    _held: Held,
}

/// Ties the reservation of `response` to its body.
pub(super) fn hold(mut response: Response) -> Response {
    match response.extensions_mut().remove::<Held>() {
        Some(held) => response.map(|body| {
            // A stream keeps its memory until it ends.
            let most = if body.size_hint().exact().is_some() { PIECE_BYTES } else { usize::MAX };
            Body::new(HeldBody { body, rest: Bytes::new(), most, _held: held })
        }),
        None => response,
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let piece = self.rest.len().min(self.most);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
