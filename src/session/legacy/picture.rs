//! What one client sees of one room: the live shapes, whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::said::Said;
use crate::log::merge_patch;
use crate::protocol::Kind;

/// Told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// The whole shape, JSON.
    Drawn(&'a str),
    Deleted(&'a str),
    /// A durable text.
    Said(&'a str),
}

type Tell<'a> = dyn FnMut(Change<'_>) + 'a;
type Shapes = HashMap<String, Arc<str>>;

#[derive(Debug, Default)]
pub struct Picture {
    /// By id. `None` until the first snapshot is whole.
    shapes: Option<Shapes>,
    /// Pages of a snapshot that isn't whole yet.
    arriving: Shapes,
}

#[derive(Deserialize)]
struct Identified<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    text: std::borrow::Cow<'a, str>,
}

impl Picture {
    /// No state is known yet.
    pub fn is_unknown(&self) -> bool {
        self.shapes.is_none()
    }

    /// The first one is what the client has read over HTTP and is told nothing
    /// of; from any later one it is told the difference.
    pub fn snapshot(&mut self, said: &Said<'_>, tell: &mut Tell<'_>) {
        if said.page == Some(1) {
            self.arriving.clear();
        }
        let shapes = said.shapes.iter().map(|item| item.shape.get());
        self.arriving.extend(shapes.filter_map(|shape| Some((id_of(shape)?, Arc::from(shape)))));
        if !said.last {
            return;
        }
        let now = std::mem::take(&mut self.arriving);
        if let Some(before) = &self.shapes {
            tell_difference(before, &now, tell);
        }
        self.shapes = Some(now);
    }

    pub fn event(&mut self, event: &Said<'_>, tell: &mut Tell<'_>) {
        let shapes = self.shapes.get_or_insert_default();
        match event.kind.as_deref().and_then(Kind::parse) {
            Some(Kind::ShapeAdd | Kind::ShapePut) => {
                if let Some(shape) = event.shape.map(|shape| shape.get())
                    && let Some(id) = id_of(shape)
                {
                    shapes.insert(id, shape.into());
                    tell(Change::Drawn(shape));
                }
            }
            Some(Kind::ShapeUpdate) => {
                if let (Some(id), Some(patch)) = (event.shape_id.as_deref(), event.patch)
                    && let Some(shape) = shapes.get_mut(id)
                    && let Ok(patched) = merge_patch(shape, patch.get())
                {
                    *shape = patched.into();
                    tell(Change::Drawn(shape));
                }
            }
            Some(Kind::ShapeDelete) => {
                if let Some(id) = event.shape_id.as_deref() {
                    shapes.remove(id);
                    tell(Change::Deleted(id));
                }
            }
            Some(Kind::RoomClear) => {
                let gone: BTreeMap<_, _> = std::mem::take(shapes).into_iter().collect();
                gone.keys().for_each(|id| tell(Change::Deleted(id)));
            }
            Some(Kind::Message) => {
                if let Some(data) = event.data
                    && let Ok(Text { text }) = serde_json::from_str(data.get())
                {
                    tell(Change::Said(&text));
                }
            }
            None => {}
        }
    }
}

fn tell_difference(before: &Shapes, now: &Shapes, tell: &mut Tell<'_>) {
    let gone: BTreeMap<_, _> = before.iter().filter(|(id, _)| !now.contains_key(*id)).collect();
    gone.keys().for_each(|id| tell(Change::Deleted(id)));
    let changed: BTreeMap<_, _> = now.iter().filter(|(id, shape)| before.get(*id) != Some(*shape)).collect();
    changed.values().for_each(|shape| tell(Change::Drawn(shape)));
}

pub fn id_of(shape: &str) -> Option<String> {
    serde_json::from_str::<Identified<'_>>(shape).ok().map(|shape| shape.id.into_owned())
}
