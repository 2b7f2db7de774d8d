//! What holds for every sequence of submits, however it is cut into batches.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::tables::{Tables, room, submit_by};
use crate::log::{Outcome, Submit};
use crate::protocol::{Code, Kind};

/// What a submit is about, small enough that they collide all the time.
#[derive(Debug, Clone)]
struct Wish {
    user: &'static str,
    room: u64,
    op: u8,
    kind: Kind,
    shape: &'static str,
    base: Option<u64>,
    fields: Value,
}

impl Wish {
    fn submit(&self) -> Submit {
        let mut shape = self.fields.clone();
        shape["id"] = json!(self.shape);
        let mut body = match self.kind {
            Kind::ShapeAdd | Kind::ShapePut => json!({ "shape": shape }),
            Kind::ShapeUpdate => json!({ "shape_id": self.shape, "patch": self.fields }),
            Kind::ShapeDelete => json!({ "shape_id": self.shape }),
            Kind::RoomClear => json!({}),
            Kind::Message => json!({ "data": self.fields }),
        };
        if let Some(base) = self.base {
            body["base"] = json!(base);
        }
        submit_by(self.user, self.room, &format!("op-{}", self.op), self.kind.as_str(), body)
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let kind = prop_oneof![
        3 => Just(Kind::ShapeAdd),
        4 => Just(Kind::ShapeUpdate),
        4 => Just(Kind::ShapePut),
        3 => Just(Kind::ShapeDelete),
        1 => Just(Kind::RoomClear),
        1 => Just(Kind::Message),
    ];
    let field = prop_oneof![
        Just(Value::Null),
        (0_i64..3).prop_map(Value::from),
        Just(json!(0.5)),
        Just(json!({"n": null, "m": 1})),
        Just(json!({"m": {"k": 2}})),
        Just(json!([1, null])),
    ];
    let fields = prop::collection::btree_map(prop::sample::select(vec!["x", "y", "o"]), field, 0..3)
        .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()));
    (
        prop::sample::select(vec!["ann", "ann", "ann", "bob", "vic"]),
        prop::sample::select(vec![1, 1, 1, 2]),
        0_u8..60,
        kind,
        prop::sample::select(vec!["a", "b", "c"]),
        prop::option::weighted(0.5, 0_u64..7),
        fields,
    )
        .prop_map(|(user, room, op, kind, shape, base, fields)| Wish {
            user,
            room,
            op,
            kind,
            shape,
            base,
            fields,
        })
}

fn submits() -> impl Strategy<Value = Vec<Submit>> {
    prop::collection::vec(wish(), 1..80)
        .prop_map(|wishes| wishes.iter().map(Wish::submit).collect::<Vec<_>>())
}

/// What a client knows of a room, from nothing but `event` messages. Written
/// without any of the code it judges.
#[derive(Default, PartialEq, Debug)]
struct Client {
    shapes: BTreeMap<String, (u64, Option<Value>)>,
    seen: u64,
}

impl Client {
    fn hears(&mut self, event: &Value) {
        assert_eq!(event["seq"].as_u64(), Some(self.seen + 1), "no hole and no repeat");
        self.seen += 1;
        let version = event["version"].as_u64();
        let id = event["shape_id"].as_str().or(event["shape"]["id"].as_str()).unwrap_or_default().to_owned();
        match event["kind"].as_str().unwrap() {
            "shape.add" | "shape.put" => {
                self.shapes.insert(id, (version.unwrap(), Some(event["shape"].clone())));
            }
            "shape.update" => {
                let (known, shape) = self.shapes.get_mut(&id).unwrap();
                *known = version.unwrap();
                apply(shape.as_mut().unwrap(), &event["patch"]);
            }
            "shape.delete" => {
                self.shapes.insert(id, (version.unwrap(), None));
            }
            "room.clear" => {
                for (version, shape) in self.shapes.values_mut() {
                    *version += u64::from(shape.take().is_some());
                }
            }
            _ => {}
        }
    }
}

/// RFC 7396, word for word.
fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let object = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            apply(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The conflict rules, told a second time over a client's view.
fn expected(client: &Client, submit: &Submit) -> Option<Code> {
    let body: Value = serde_json::from_str(&submit.body).unwrap();
    let kind = submit.operation.kind();
    if submit.user.as_str() == "vic" {
        return Some(Code::Forbidden);
    }
    let id = submit.operation.shape_id()?;
    let base = body["base"].as_u64();
    match (client.shapes.get(id.as_str()), kind) {
        (None, Kind::ShapeUpdate | Kind::ShapeDelete) => Some(Code::ShapeUnknown),
        (None, Kind::ShapeAdd) => None,
        (None, _) => base.filter(|base| *base != 0).map(|_| Code::VersionConflict),
        (Some((version, None)), Kind::ShapePut) if base == Some(*version) => None,
        (Some((_, None)), _) => Some(Code::ShapeDeleted),
        (Some(_), Kind::ShapeAdd) => Some(Code::ShapeExists),
        (Some((version, Some(_))), _) => base.filter(|base| base != version).map(|_| Code::VersionConflict),
    }
}

fn seqs_have_no_hole(tables: &Tables) {
    for id in [room(1), room(2)] {
        let seqs: Vec<_> = tables.log.iter().filter(|e| e.room == id).map(|e| e.position.seq.0).collect();
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
        assert_eq!(tables.rooms[&id].head.seq.0, seqs.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_cut_into_batches_changes_nothing(submits in submits(), cuts in prop::collection::vec(1_usize..9, 80)) {
        let mut whole = Tables::new();
        let all = whole.append(&submits);
        let mut parts = Tables::new();
        let mut outcomes = Vec::new();
        let mut rest = &submits[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            outcomes.extend(parts.append(now));
            rest = later;
        }
        prop_assert_eq!(&outcomes, &all);
        prop_assert_eq!(&parts.log, &whole.log);
        prop_assert_eq!(&parts.shapes, &whole.shapes);
        prop_assert_eq!(&parts.rooms, &whole.rooms);
        seqs_have_no_hole(&whole);
    }

    #[test]
    fn the_state_table_a_replay_and_a_client_agree(submits in submits()) {
        let mut tables = Tables::new();
        tables.append(&submits);
        for id in [room(1), room(2)] {
            let fold = tables.fold(id);
            let rows: BTreeMap<_, _> = tables.shapes.iter()
                .filter(|((room, _), _)| *room == id)
                .map(|((_, shape), state)| (shape.clone(), state.clone()))
                .collect();
            prop_assert_eq!(&fold.shapes, &rows);
            prop_assert_eq!(fold.cleared, tables.rooms[&id].cleared);
            prop_assert_eq!(fold.head, tables.rooms[&id].head);
            prop_assert_eq!(fold.live().count() as u64, tables.rooms[&id].live_shapes);
            let bytes: usize = fold.live().map(|(_, _, data)| data.json.len()).sum();
            prop_assert_eq!(bytes as u64, tables.rooms[&id].live_bytes);
            let mut client = Client::default();
            for event in tables.log.iter().filter(|event| event.room == id) {
                client.hears(&serde_json::from_str(event.to_json().as_str()).unwrap());
            }
            let seen: BTreeMap<_, _> = client.shapes.into_iter()
                .filter_map(|(id, (version, shape))| Some((id, (version, shape?))))
                .collect();
            let live: BTreeMap<_, _> = fold.live()
                .map(|(id, version, data)| (id.to_string(), (version.0, serde_json::from_str(&data.json).unwrap())))
                .collect();
            prop_assert_eq!(seen, live);
        }
    }

    #[test]
    fn every_answer_is_what_the_rules_say(submits in submits()) {
        let mut tables = Tables::new();
        let mut clients: BTreeMap<_, _> = [1, 2].map(|id| (room(id), Client::default())).into();
        for submit in submits {
            let key = (submit.room, submit.user.clone(), submit.op.clone());
            let before = tables.log.len();
            let client = clients.get_mut(&submit.room).unwrap();
            let outcome = tables.one(submit.clone());
            match (tables.ops.get(&key).filter(|known| known.position.seq.0 <= client.seen), &outcome) {
                (Some(known), Outcome::Accepted(ack)) => {
                    prop_assert!(ack.duplicate && known.digest == submit.digest);
                    prop_assert_eq!(ack.position, known.position);
                }
                (Some(known), Outcome::Rejected(rejection)) => {
                    prop_assert_eq!(rejection.refusal.code, Code::OpReused);
                    prop_assert_ne!(known.digest, submit.digest);
                }
                (None, Outcome::Accepted(_)) => prop_assert_eq!(expected(client, &submit), None),
                (None, Outcome::Rejected(rejection)) => {
                    prop_assert_eq!(Some(rejection.refusal.code), expected(client, &submit));
                }
            }
            let is_new = matches!(&outcome, Outcome::Accepted(ack) if !ack.duplicate);
            prop_assert_eq!(tables.log.len() - before, usize::from(is_new));
            if is_new {
                client.hears(&serde_json::from_str(tables.log[before].to_json().as_str()).unwrap());
            }
        }
    }

    #[test]
    fn resubmitting_gives_the_same_seq_and_no_event(submits in submits()) {
        let mut tables = Tables::new();
        let first = tables.append(&submits);
        let events = tables.log.len();
        for (submit, outcome) in submits.iter().zip(&first) {
            if let Outcome::Accepted(ack) = outcome {
                let again = tables.one(submit.clone());
                prop_assert!(
                    matches!(&again, Outcome::Accepted(a) if a.duplicate && a.position == ack.position
                        && a.version == ack.version && a.cleared == ack.cleared)
                );
            }
        }
        prop_assert_eq!(tables.log.len(), events);
    }
}
