//! Events back into shapes: replay, time travel, and what every client does.

use std::collections::BTreeMap;

use thiserror::Error;

use super::decide::Standing;
use super::merge::merge_patch;
use super::{Event, ShapeData, ShapeState};
use crate::ids::ShapeId;
use crate::position::{Position, Seq};
use crate::protocol::{Kind, Version, strict};

/// A room's shapes at a position of its log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fold {
    pub head: Position,
    pub cleared: Seq,
    /// Live shapes and tombstones, as rows of the state table; see
    /// [`Fold::live`].
    pub shapes: BTreeMap<ShapeId, ShapeState>,
}

/// An event that doesn't follow, or whose body isn't what its kind says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("event {seq}: {what}")]
pub struct Unreadable {
    pub seq: Seq,
    pub what: &'static str,
}

impl Fold {
    /// The state at `head`, from what is live there. What was deleted before is
    /// not known any more, and no later event needs it.
    pub fn resume(head: Position, live: impl IntoIterator<Item = (ShapeId, Version, ShapeData)>) -> Self {
        let row = |version, data| ShapeState { version, data: Some(data), last_seq: head.seq };
        let shapes = live.into_iter().map(|(id, version, data)| (id, row(version, data))).collect();
        Self { head, cleared: Seq::ZERO, shapes }
    }

    /// Drops what is deleted, so that a long replay stays as small as the state.
    pub fn forget_deleted(&mut self) {
        let cleared = self.cleared;
        self.shapes.retain(|_, state| state.data.is_some() && state.last_seq > cleared);
    }

    /// The memory that it takes up.
    pub fn bytes(&self) -> usize {
        let json = |state: &ShapeState| state.data.as_ref().map_or(0, |data| data.json.len());
        self.shapes.values().map(|state| json(state) + 256).sum()
    }

    /// The live shapes in order of their ids, each taken out of the state.
    pub fn into_live(self) -> impl Iterator<Item = (ShapeId, Version, ShapeData)> {
        let cleared = self.cleared;
        self.shapes
            .into_iter()
            .filter(move |(_, state)| state.last_seq > cleared)
            .filter_map(|(id, ShapeState { version, data, .. })| Some((id, version, data?)))
    }

    /// Applies the next event of the log.
    pub fn apply(&mut self, event: &Event) -> Result<(), Unreadable> {
        let seq = event.position.seq;
        let unreadable = |what| Unreadable { seq, what };
        if seq != self.head.seq.next() {
            return Err(unreadable("does not follow the one before it"));
        }
        let body = Body { json: &event.body, seq };
        match event.kind {
            Kind::ShapeAdd | Kind::ShapePut => {
                let (id, data) =
                    shape_data(body.field("shape")?).ok_or(unreadable("no shape in its body"))?;
                self.set(event, id, Some(data))?;
            }
            Kind::ShapeUpdate => {
                let id = body.shape_id()?;
                let old = self.shapes.get(&id).and_then(|state| state.data.clone());
                let old = old.ok_or(unreadable("updates a shape that is not there"))?;
                let json = merge_patch(&old.json, body.field("patch")?)
                    .map_err(|_| unreadable("a patch that is no object"))?;
                self.set(event, id, Some(ShapeData { json: json.into(), ..old }))?;
            }
            Kind::ShapeDelete => self.set(event, body.shape_id()?, None)?,
            Kind::RoomClear => self.cleared = seq,
            Kind::Message => {}
        }
        self.head = event.position;
        Ok(())
    }

    /// The shapes that are there, with their versions, in order of their ids.
    pub fn live(&self) -> impl Iterator<Item = (&ShapeId, Version, &ShapeData)> {
        self.shapes.iter().filter_map(|(id, state)| match Standing::of(Some(state), self.cleared) {
            Standing::Live { version, data } => Some((id, version, data)),
            Standing::Never | Standing::Deleted { .. } => None,
        })
    }

    fn set(&mut self, event: &Event, id: ShapeId, data: Option<ShapeData>) -> Result<(), Unreadable> {
        let last_seq = event.position.seq;
        let version = event.version.ok_or(Unreadable { seq: last_seq, what: "has no version" })?;
        self.shapes.insert(id, ShapeState { version, data, last_seq });
        Ok(())
    }
}

/// A shape's text with what is indexed of it; `None` if it has no valid id.
pub(super) fn shape_data(json: &str) -> Option<(ShapeId, ShapeData)> {
    let mut id = None;
    let mut shape_type = None;
    for (key, value) in strict::entries(json).ok()? {
        match &*key {
            "id" => id = serde_json::from_str::<ShapeId>(value.get()).ok(),
            "type" => shape_type = serde_json::from_str::<String>(value.get()).ok(),
            _ => {}
        }
    }
    Some((id?, ShapeData { json: json.into(), shape_type: shape_type.map(Into::into) }))
}

/// The body of an event, whose fields are looked up as text.
struct Body<'a> {
    json: &'a str,
    seq: Seq,
}

impl<'a> Body<'a> {
    fn field(&self, name: &str) -> Result<&'a str, Unreadable> {
        strict::entries(self.json)
            .ok()
            .and_then(|entries| entries.into_iter().find(|(key, _)| key == name))
            .map(|(_, value)| value.get())
            .ok_or(Unreadable { seq: self.seq, what: "a field of its body is missing" })
    }

    fn shape_id(&self) -> Result<ShapeId, Unreadable> {
        serde_json::from_str(self.field("shape_id")?)
            .map_err(|_| Unreadable { seq: self.seq, what: "its shape_id is none" })
    }
}
