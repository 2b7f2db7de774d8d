//! What one client knows of one room. Written without the gateway's own code, so
//! that a mistake there is not repeated here.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Debug, Default, Clone)]
pub struct View {
    pub epoch: u64,
    /// The last event that is part of the state.
    pub seq: u64,
    /// Live shapes with their versions.
    pub shapes: BTreeMap<String, (u64, Value)>,
    /// Every event seen since the last snapshot, in order of arrival.
    pub seen: Vec<Value>,
    /// Whether the last page has come.
    pub live: bool,
    /// Pages of a snapshot whose last has not come.
    pub loading: BTreeMap<String, (u64, Value)>,
}

impl View {
    pub fn position(&self) -> Value {
        serde_json::json!({"epoch": self.epoch, "seq": self.seq})
    }

    /// A page of a snapshot.
    pub fn snapshot(&mut self, message: &Value) {
        for entry in message["shapes"].as_array().unwrap() {
            let id = entry["shape"]["id"].as_str().unwrap().to_owned();
            let version = entry["version"].as_u64().unwrap();
            assert!(
                self.loading.insert(id, (version, entry["shape"].clone())).is_none(),
                "a shape came twice"
            );
        }
        if message["last"] == true {
            self.shapes = std::mem::take(&mut self.loading);
            self.seen.clear();
            self.seq = message["seq"].as_u64().unwrap();
            self.epoch = message["epoch"].as_u64().unwrap();
            self.live = true;
        }
    }

    /// A page of a resume.
    pub fn events(&mut self, message: &Value) {
        for event in message["events"].as_array().unwrap() {
            self.apply(event);
        }
        self.live |= message["last"] == true;
    }

    /// A live event: only after the last page.
    pub fn event(&mut self, event: &Value) {
        assert!(self.live, "an event before the last page: {event}");
        self.apply(event);
    }

    fn apply(&mut self, event: &Value) {
        assert_eq!(event["seq"], self.seq + 1, "a hole, a repeat or a reordering before {event}");
        let version = event["version"].as_u64();
        match event["kind"].as_str().unwrap() {
            "shape.add" | "shape.put" => {
                let shape = &event["shape"];
                let id = shape["id"].as_str().unwrap().to_owned();
                self.shapes.insert(id, (version.unwrap(), shape.clone()));
            }
            "shape.update" => {
                let entry = self.shapes.get_mut(event["shape_id"].as_str().unwrap()).unwrap();
                entry.0 = version.unwrap();
                merge(&mut entry.1, &event["patch"]);
            }
            "shape.delete" => {
                self.shapes.remove(event["shape_id"].as_str().unwrap()).unwrap();
            }
            "room.clear" => self.shapes.clear(),
            "message" => {}
            other => panic!("an event of kind {other}"),
        }
        self.seq += 1;
        self.epoch = event["epoch"].as_u64().unwrap();
        self.seen.push(event.clone());
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    let object = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
