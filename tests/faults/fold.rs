//! A room's shapes, from its events. Written without the gateway's own code, so
//! that a mistake there is not repeated here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::history::digest;

#[derive(Debug, Clone, Default)]
pub struct Shapes {
    /// Tombstones have no shape.
    pub known: BTreeMap<String, (u64, Option<Value>)>,
    /// Of those that live: a sum, so that it follows each event.
    digest: u64,
}

impl Shapes {
    /// Takes the next event; says what is wrong with it.
    pub fn apply(&mut self, event: &Value) -> Result<(), String> {
        let kind = event["kind"].as_str().unwrap_or_default();
        match kind {
            "shape.add" | "shape.put" => {
                let id = text(&event["shape"]["id"])?;
                self.set(id, event, Some(event["shape"].clone()))
            }
            "shape.update" => {
                let id = text(&event["shape_id"])?;
                let Some((_, Some(shape))) = self.known.get(&id) else {
                    return Err(format!("updates {id}, which isn't there"));
                };
                let mut shape = shape.clone();
                merge(&mut shape, &event["patch"]);
                self.set(id, event, Some(shape))
            }
            "shape.delete" => {
                let id = text(&event["shape_id"])?;
                if !matches!(self.known.get(&id), Some((_, Some(_)))) {
                    return Err(format!("deletes {id}, which isn't there"));
                }
                self.set(id, event, None)
            }
            "room.clear" => {
                for (version, shape) in self.known.values_mut().filter(|(_, shape)| shape.is_some()) {
                    *version += 1;
                    *shape = None;
                }
                self.digest = 0;
                Ok(())
            }
            "message" => Ok(()),
            other => Err(format!("is of kind {other:?}")),
        }
    }

    /// Of what a reader sees: ids, versions and shapes of all that live.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn live(&self) -> impl Iterator<Item = (&String, u64, &Value)> {
        self.known.iter().filter_map(|(id, (version, shape))| Some((id, *version, shape.as_ref()?)))
    }

    fn set(&mut self, id: String, event: &Value, shape: Option<Value>) -> Result<(), String> {
        let version = event["version"].as_u64().unwrap_or_default();
        let of = |version, shape: &Option<Value>| {
            shape.as_ref().map_or(0, |shape| digest_of_one(&id, version, shape))
        };
        let now = of(version, &shape);
        let before = self.known.insert(id.clone(), (version, shape));
        let was = before.as_ref().map_or(0, |(version, shape)| of(*version, shape));
        self.digest = self.digest.wrapping_add(now).wrapping_sub(was);
        let before = before.map_or(0, |(version, _)| version);
        if version == before + 1 {
            return Ok(());
        }
        Err(format!("makes version {version} of {id} from version {before}"))
    }
}

/// As [`Shapes::digest`], of the `{version,shape}` items of a snapshot or a list.
pub fn digest_of_items<'a>(items: impl Iterator<Item = &'a Value>) -> u64 {
    let mut sorted = BTreeMap::new();
    for item in items {
        let id = item["shape"]["id"].as_str().unwrap_or_default().to_owned();
        sorted.insert(id, (item["version"].as_u64().unwrap_or_default(), &item["shape"]));
    }
    sorted.iter().map(|(id, (version, shape))| digest_of_one(id, *version, shape)).fold(0, u64::wrapping_add)
}

fn digest_of_one(id: &str, version: u64, shape: &Value) -> u64 {
    digest(&json!([id, version, shape]))
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "names no shape".to_owned())
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().expect("made one");
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
