//! A room's state, encoded for joiners: once for all who wait.

use std::time::Instant;

use crate::ids::RoomId;
use crate::memory::SharedBytes;
use crate::position::Position;
use crate::protocol::Json;
use crate::protocol::server::{self, SnapshotPage};

/// How large a page of a snapshot grows.
const PAGE_BYTES: usize = 256 * 1024;

/// The `snapshot` messages of one state, ready to be sent.
#[derive(Debug)]
pub struct SnapshotPages {
    pub position: Position,
    pub pages: Vec<Json>,
    /// The state is not older than this.
    pub as_of: Instant,
    pub shared: SharedBytes,
}

impl SnapshotPages {
    /// `shapes`: encoded `{version, shape}` items, each dropped once it is on a page.
    /// Even an empty room has a page.
    pub fn encode<T: AsRef<str>>(
        room: RoomId,
        position: Position,
        shapes: impl IntoIterator<Item = T>,
    ) -> Self {
        let as_of = Instant::now();
        let mut pages: Vec<Json> = Vec::new();
        let mut rest = shapes.into_iter().peekable();
        loop {
            let (mut shapes, mut bytes) = (Vec::new(), 0);
            while let Some(shape) =
                rest.next_if(|shape: &T| bytes == 0 || bytes + shape.as_ref().len() <= PAGE_BYTES)
            {
                bytes += shape.as_ref().len();
                shapes.push(shape);
            }
            let (page, last) = (pages.len() as u64 + 1, rest.peek().is_none());
            pages.push(server::snapshot(&SnapshotPage { room, position, shapes: &shapes, page, last }));
            if last {
                return Self { position, pages, as_of, shared: SharedBytes::default() };
            }
        }
    }

    pub fn bytes(&self) -> usize {
        self.pages.iter().map(Json::len).sum::<usize>() + 128
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Seq};

    #[test]
    fn every_shape_is_on_one_page_and_the_last_page_says_so() {
        let room = RoomId::new(7).unwrap();
        let position = Position::new(Epoch(1), Seq(9));
        for count in [0, 1, 5, 100] {
            let shape = format!("{{\"version\":1,\"shape\":{{\"id\":\"{}\"}}}}", "x".repeat(PAGE_BYTES / 3));
            let encoded = SnapshotPages::encode(room, position, vec![shape; count]);
            let pages: Vec<serde_json::Value> =
                encoded.pages.iter().map(|page| serde_json::from_str(page.as_str()).unwrap()).collect();
            let shapes: usize = pages.iter().map(|page| page["shapes"].as_array().unwrap().len()).sum();
            assert_eq!(shapes, count);
            for (index, page) in pages.iter().enumerate() {
                assert_eq!(page["page"], index + 1);
                assert_eq!(page["seq"], 9);
                assert_eq!(page["last"], index + 1 == pages.len());
            }
        }
    }
}
