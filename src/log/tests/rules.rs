//! Each sentence of "Submitting" and "Kinds", by example.

use serde_json::{Value, json};

use super::tables::{Tables, from_text, rejected, room, submit, submit_by, user};
use crate::clock::UnixMillis;
use crate::ids::ShapeId;
use crate::log::{Ack, Authority, Current, Digest, Outcome, Schema, Submit};
use crate::position::{Epoch, Position, Seq};
use crate::protocol::{Code, Exact, Operation, Shape, Version};

fn a(x: i64) -> Value {
    json!({"shape":{"id":"a","type":"t","x":x}})
}

fn put(x: i64, base: u64) -> Value {
    json!({"shape":{"id":"a","type":"t","x":x},"base":base})
}

fn shape_of(tables: &Tables, id: &str) -> Option<(u64, Value)> {
    let fold = tables.fold(room(1));
    let found = fold.live().find(|(shape, ..)| shape.as_str() == id);
    found.map(|(_, version, data)| (version.0, serde_json::from_str(&data.json).unwrap()))
}

fn current(version: u64, shape: Option<&str>) -> Option<Current> {
    Some(Current { version: Version(version), shape: shape.map(Into::into) })
}

#[test]
fn each_accepted_op_takes_the_next_seq_under_the_slots_epoch_and_raises_the_version() {
    let mut tables = Tables::new();
    assert_eq!(tables.accepts("1", "shape.add", a(0)), (1, Some(1)));
    assert_eq!(tables.accepts("2", "shape.put", a(1)), (2, Some(2)));
    tables.room().epoch = Epoch(9);
    assert_eq!(tables.accepts("3", "shape.update", json!({"shape_id":"a","patch":{}})), (3, Some(3)));
    assert_eq!(tables.accepts("4", "message", json!({"data":[1]})), (4, None));
    assert_eq!(tables.accepts("5", "shape.delete", json!({"shape_id":"a"})), (5, Some(4)));
    let epochs: Vec<_> = tables.log.iter().map(|event| event.position.epoch.0).collect();
    assert_eq!(epochs, [7, 7, 9, 9, 9]);
    assert_eq!(tables.room().head, Position::new(Epoch(9), Seq(5)));
}

#[test]
fn a_repeated_op_has_one_effect_and_its_first_seq() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.add", a(0));
    tables.accepts("2", "shape.delete", json!({"shape_id":"a"}));
    let again = tables.one(submit("1", "shape.add", a(0)));
    let position = Position::new(Epoch(7), Seq(1));
    let ack = Ack { position, at: UnixMillis(1), version: Some(Version(1)), cleared: None, duplicate: true };
    assert_eq!(again, Outcome::Accepted(ack));
    assert_eq!(tables.log.len(), 2);
}

#[test]
fn a_repeat_within_one_batch_is_a_duplicate_too() {
    let mut tables = Tables::new();
    let outcomes = tables.append(&[
        submit("1", "shape.add", a(0)),
        submit("1", "shape.add", a(0)),
        submit("1", "shape.add", a(5)),
    ]);
    assert!(matches!(&outcomes[1], Outcome::Accepted(ack) if ack.duplicate && ack.position.seq == Seq(1)));
    assert_eq!(rejected(outcomes[2].clone()).0, Code::OpReused);
    assert_eq!(tables.log.len(), 1);
}

#[test]
fn a_known_op_is_answered_before_anything_else_is_judged() {
    let mut tables = Tables::new();
    tables.accepts("1", "room.clear", json!({}));
    tables.room().archived = true;
    tables.roles.clear();
    assert!(matches!(tables.one(submit("1", "room.clear", json!({}))), Outcome::Accepted(_)));
    assert_eq!(tables.rejects("1", "shape.delete", json!({"shape_id":"a"})).0, Code::OpReused);
}

#[test]
fn op_reused_compares_kind_and_body_with_base_as_json_values() {
    let mut tables = Tables::new();
    let text = |body: &str| from_text("ann", &format!(r#"{{"type":"submit","room":1,"op":"o",{body}}}"#));
    tables.append(&[text(r#""kind":"shape.put","base":0,"shape":{"id":"a","n":1,"m":[0.5,1e2]}"#)]);
    for same in [
        r#""kind":"shape.put","base":0,"shape":{"id":"a","n":1,"m":[0.5,1e2]}"#,
        r#""shape":{"m":[ 5e-1,100],"n":1.0,"\u0069d":"\u0061"},"base":0,"kind":"shape.put","ignored":1"#,
    ] {
        assert!(matches!(tables.one(text(same)), Outcome::Accepted(ack) if ack.duplicate), "{same}");
    }
    for other in [
        r#""kind":"shape.put","shape":{"id":"a","n":1,"m":[0.5,1e2]}"#,
        r#""kind":"shape.put","base":1,"shape":{"id":"a","n":1,"m":[0.5,1e2]}"#,
        r#""kind":"shape.add","shape":{"id":"a","n":1,"m":[0.5,1e2]}"#,
        r#""kind":"shape.put","base":0,"shape":{"id":"a","n":2,"m":[0.5,1e2]}"#,
        r#""kind":"shape.put","base":0,"shape":{"id":"a","n":"1","m":[0.5,1e2]}"#,
        r#""kind":"shape.put","base":0,"shape":{"id":"a","n":1,"m":[1e2,0.5]}"#,
        r#""kind":"shape.put","base":0,"shape":{"id":"a","n":1,"m":[0.5,1e2],"k":null}"#,
    ] {
        assert_eq!(rejected(tables.one(text(other))).0, Code::OpReused, "{other}");
    }
}

#[test]
fn the_same_body_under_another_kind_is_another_submit() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.put", a(0));
    assert_eq!(tables.rejects("1", "shape.add", a(0)).0, Code::OpReused);
}

#[test]
fn an_op_belongs_to_its_user_and_room() {
    let mut tables = Tables::new();
    tables.accepts("o", "shape.add", a(0));
    for (who, room) in [("bob", 1), ("ann", 2)] {
        let other = submit_by(who, room, "o", "message", json!({"data":0}));
        assert!(matches!(tables.one(other), Outcome::Accepted(ack) if !ack.duplicate));
    }
}

#[test]
fn a_reject_stops_nothing_and_is_not_recorded() {
    let mut tables = Tables::new();
    let outcomes = tables.append(&[
        submit("1", "shape.delete", json!({"shape_id":"a"})),
        submit("2", "shape.add", a(0)),
        submit("1", "shape.delete", json!({"shape_id":"a"})),
    ]);
    assert_eq!(rejected(outcomes[0].clone()), (Code::ShapeUnknown, None));
    assert!(matches!(&outcomes[2], Outcome::Accepted(ack) if !ack.duplicate && ack.position.seq == Seq(2)));
}

#[test]
fn who_may_write_is_checked_in_order() {
    let mut tables = Tables::new();
    let message = |who, room| submit_by(who, room, "m", "message", json!({"data":1}));
    assert_eq!(rejected(tables.one(message("ann", 3))).0, Code::RoomUnknown);
    assert_eq!(rejected(tables.one(message("vic", 1))).0, Code::Forbidden);
    assert_eq!(rejected(tables.one(message("eve", 1))).0, Code::Forbidden);
    let server = Submit { authority: Authority::Server, ..message("eve", 1) };
    assert!(matches!(tables.one(server), Outcome::Accepted(_)));
    tables.room().archived = true;
    assert_eq!(rejected(tables.one(message("vic", 1))).0, Code::RoomArchived);
}

#[test]
fn add_wants_a_new_id() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.add", a(0));
    let json = r#"{"id":"a","type":"t","x":0}"#;
    assert_eq!(tables.rejects("2", "shape.add", a(0)), (Code::ShapeExists, current(1, Some(json))));
    tables.accepts("3", "shape.delete", json!({"shape_id":"a"}));
    assert_eq!(tables.rejects("4", "shape.add", a(0)), (Code::ShapeDeleted, current(2, None)));
}

#[test]
fn put_replaces_or_creates() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.put", json!({"shape":{"id":"a","x":1,"y":2}}));
    tables.accepts("2", "shape.put", json!({"shape":{"id":"a","x":3,"z":null}}));
    assert_eq!(shape_of(&tables, "a"), Some((2, json!({"id":"a","x":3,"z":null}))));
}

#[test]
fn update_and_delete_want_a_known_id() {
    let mut tables = Tables::new();
    let update = json!({"shape_id":"a","patch":{},"base":3});
    assert_eq!(tables.rejects("1", "shape.update", update), (Code::ShapeUnknown, None));
    let delete = json!({"shape_id":"a","base":3});
    assert_eq!(tables.rejects("1", "shape.delete", delete), (Code::ShapeUnknown, None));
}

#[test]
fn base_must_be_the_version_and_zero_means_must_not_exist() {
    let mut tables = Tables::new();
    assert_eq!(tables.rejects("0", "shape.put", put(1, 3)), (Code::VersionConflict, current(0, None)));
    assert_eq!(tables.accepts("1", "shape.put", put(1, 0)), (1, Some(1)));
    let json = r#"{"id":"a","type":"t","x":1}"#;
    let conflict = (Code::VersionConflict, current(1, Some(json)));
    assert_eq!(tables.rejects("2", "shape.put", put(1, 0)), conflict);
    assert_eq!(tables.rejects("2", "shape.put", put(1, 2)), conflict);
    assert_eq!(tables.rejects("2", "shape.update", json!({"shape_id":"a","patch":{},"base":0})), conflict);
    assert_eq!(tables.rejects("2", "shape.delete", json!({"shape_id":"a","base":2})), conflict);
    assert_eq!(tables.accepts("2", "shape.put", put(2, 1)), (2, Some(2)));
    assert_eq!(
        tables.accepts("3", "shape.update", json!({"shape_id":"a","patch":{},"base":2})),
        (3, Some(3))
    );
    assert_eq!(tables.accepts("4", "shape.put", a(9)), (4, Some(4)), "without base the last writer wins");
    assert_eq!(tables.accepts("5", "shape.delete", json!({"shape_id":"a","base":4})), (5, Some(5)));
}

#[test]
fn only_a_put_on_the_tombstones_version_revives() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.add", a(0));
    tables.accepts("2", "shape.delete", json!({"shape_id":"a"}));
    let dead = (Code::ShapeDeleted, current(2, None));
    for (kind, body) in [
        ("shape.add", a(1)),
        ("shape.put", a(1)),
        ("shape.put", put(1, 0)),
        ("shape.put", put(1, 1)),
        ("shape.put", put(1, 3)),
        ("shape.update", json!({"shape_id":"a","patch":{},"base":2})),
        ("shape.update", json!({"shape_id":"a","patch":{}})),
        ("shape.delete", json!({"shape_id":"a","base":2})),
        ("shape.delete", json!({"shape_id":"a"})),
    ] {
        assert_eq!(tables.rejects("x", kind, body.clone()), dead, "{kind} {body}");
    }
    assert_eq!(tables.accepts("3", "shape.put", put(5, 2)), (3, Some(3)));
    assert_eq!(shape_of(&tables, "a"), Some((3, json!({"id":"a","type":"t","x":5}))));
}

#[test]
fn clear_deletes_every_live_shape_at_its_version_plus_one_and_counts_them() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.add", a(0));
    tables.accepts("2", "shape.add", json!({"shape":{"id":"b"}}));
    tables.accepts("3", "shape.add", json!({"shape":{"id":"c"}}));
    tables.accepts("4", "shape.delete", json!({"shape_id":"c"}));
    tables.accepts("5", "shape.put", a(1));
    let Outcome::Accepted(ack) = tables.one(submit("6", "room.clear", json!({}))) else { panic!("a clear") };
    assert_eq!((ack.cleared, ack.version), (Some(2), None));
    assert_eq!(tables.room().live_shapes, 0);
    assert_eq!(tables.fold(room(1)).live().count(), 0);
    assert_eq!(tables.rejects("7", "shape.put", a(2)), (Code::ShapeDeleted, current(3, None)));
    assert_eq!(tables.rejects("7", "shape.put", put(2, 2)), (Code::ShapeDeleted, current(3, None)));
    let c = json!({"shape_id":"c","patch":{}});
    assert_eq!(tables.rejects("7", "shape.update", c), (Code::ShapeDeleted, current(2, None)));
    assert_eq!(tables.accepts("7", "shape.put", put(2, 3)), (7, Some(4)));
    assert_eq!(tables.room().live_shapes, 1);
    let Outcome::Accepted(again) = tables.one(submit("6", "room.clear", json!({}))) else { panic!("known") };
    assert_eq!((again.cleared, again.duplicate), (Some(2), true));
    assert!(shape_of(&tables, "a").is_some());
}

#[test]
fn a_clear_counts_what_came_before_it_in_the_same_batch_only() {
    let mut tables = Tables::new();
    let outcomes = tables.append(&[
        submit("1", "shape.add", a(0)),
        submit("2", "room.clear", json!({})),
        submit("3", "shape.put", put(1, 2)),
        submit("4", "shape.add", json!({"shape":{"id":"b"}})),
    ]);
    assert!(matches!(&outcomes[1], Outcome::Accepted(ack) if ack.cleared == Some(1)));
    assert!(matches!(&outcomes[2], Outcome::Accepted(ack) if ack.version == Some(Version(3))));
    assert_eq!(tables.room().live_shapes, 2);
}

#[test]
fn a_patch_merges_and_keeps_what_it_does_not_name_as_it_was_written() {
    let mut tables = Tables::new();
    let add = r#"{"type":"submit","room":1,"op":"1","kind":"shape.add","shape":{"id":"a","n":1.50,"style":{"fill":"red","w":1},"gone":1}}"#;
    tables.append(&[from_text("ann", add)]);
    let patch = json!({"style":{"w":null,"dash":[1]},"gone":null,"new":true});
    tables.accepts("2", "shape.update", json!({"shape_id":"a","patch":patch}));
    let key = (room(1), ShapeId::new("a").unwrap());
    let data = tables.shapes[&key].data.clone().unwrap();
    assert_eq!(&*data.json, r#"{"id":"a","n":1.50,"style":{"fill":"red","dash":[1]},"new":true}"#);
}

#[test]
fn a_patch_may_not_change_id_or_type() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.add", a(0));
    for patch in [json!({"id":"b"}), json!({"id":null}), json!({"type":"u"}), json!({"type":null})] {
        let update = json!({"shape_id":"a","patch":patch});
        assert_eq!(tables.rejects("2", "shape.update", update), (Code::InvalidShape, None), "{patch}");
    }
    tables.accepts("2", "shape.update", json!({"shape_id":"a","patch":{"id":"a","type":"t","x":2}}));
}

#[test]
fn the_result_of_a_patch_is_checked_and_limited_like_a_message() {
    let mut tables = Tables::new();
    tables.room().schema = Schema::Drawing;
    tables.bounds.shape_bytes = 100;
    let circle = json!({"shape":{"id":"a","type":"circle","x":0,"y":0,"radius":1}});
    tables.accepts("1", "shape.add", circle);
    for (patch, code) in [
        (json!({"radius":-1}), Code::InvalidShape),
        (json!({"x":null}), Code::InvalidShape),
        (json!({"note":"x".repeat(60)}), Code::TooLarge),
    ] {
        assert_eq!(tables.rejects("2", "shape.update", json!({"shape_id":"a","patch":patch})).0, code);
    }
    tables.accepts("2", "shape.update", json!({"shape_id":"a","patch":{"radius":2,"note":"x"}}));
}

#[test]
fn the_schema_is_checked_after_the_conflicts() {
    let mut tables = Tables::new();
    tables.room().schema = Schema::Drawing;
    let bad = json!({"shape":{"id":"a","type":"circle","x":0,"y":0}});
    assert_eq!(tables.rejects("1", "shape.add", bad.clone()), (Code::InvalidShape, None));
    tables.accepts("1", "shape.add", json!({"shape":{"id":"a","type":"text","x":0,"y":0,"text":"t"}}));
    assert_eq!(tables.rejects("2", "shape.add", bad).0, Code::ShapeExists);
}

#[test]
fn an_event_goes_out_with_its_body_as_submitted() {
    let mut tables = Tables::new();
    let text = "{\"type\":\"submit\",\"room\":1,\"op\":\"o\",\"kind\":\"shape.put\",\"base\":0,\n\"shape\":{\"x\":1.50,\n \"id\":\"a\",\"big\":-18446744073709551615,\"s\":\"\\u00e9\\n\"},\"other\":1}";
    tables.append(&[from_text("ann", text)]);
    assert_eq!(
        tables.log[0].to_json().as_str(),
        r#"{"type":"event","room":1,"epoch":7,"seq":1,"kind":"shape.put","op":"o","user":"ann","at":1,"base":0,"shape":{"x":1.50,"id":"a","big":-18446744073709551615,"s":"\u00e9\n"},"version":1}"#
    );
    tables.accepts("c", "room.clear", json!({}));
    assert_eq!(
        tables.log[1].to_json().as_str(),
        r#"{"type":"event","room":1,"epoch":7,"seq":2,"kind":"room.clear","op":"c","user":"ann","at":1}"#
    );
    tables.accepts("d", "message", json!({"data":{"text":"<b>"}}));
    assert!(tables.log[2].to_json().as_str().ends_with(r#""at":1,"data":{"text":"<b>"}}"#));
}

/// Digests are kept in the log: another form would make retries `op_reused`.
#[test]
fn digests_are_pinned() {
    let hex = |operation: &Operation| {
        Digest::of(operation).0.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let Value::Object(value) =
        json!({"id":"é","n":null,"t":[true,false],"i":-3,"f":0.5,"big":u64::MAX,"huge":1e300,"o":{}})
    else {
        panic!("an object")
    };
    let shape = Shape::new(Exact::encode(value.clone())).unwrap();
    let id = shape.id.clone();
    let base = Some(Version(2));
    let digests = [
        hex(&Operation::ShapeAdd { shape: shape.clone() }),
        hex(&Operation::ShapePut { shape, base: None }),
        hex(&Operation::ShapeUpdate { shape_id: id.clone(), base, patch: Exact::encode(value) }),
        hex(&Operation::ShapeDelete { shape_id: id, base }),
        hex(&Operation::RoomClear),
        hex(&Operation::Message { data: Exact::encode(json!("x")) }),
    ];
    assert_eq!(
        digests,
        [
            "b6c8567e1f38e25f329cbb84bb9a837c",
            "dd113148687728a607fc22d59e594ab8",
            "2321277ab9057f8956680ed6ac7253f6",
            "4988f475639a70711c404624d6d27479",
            "3f06cafb5af51347e0ef354f2c64c6ce",
            "ea3571551d799734a9785421252f37e5",
        ]
    );
}

#[test]
fn a_fold_refuses_an_event_that_does_not_follow() {
    let mut tables = Tables::new();
    tables.accepts("1", "shape.add", a(0));
    tables.accepts("2", "shape.put", a(0));
    let mut fold = crate::log::Fold::default();
    assert!(fold.apply(&tables.log[1]).is_err());
    fold.apply(&tables.log[0]).unwrap();
    assert!(fold.apply(&tables.log[0]).is_err());
    assert_eq!(user("ann"), tables.log[0].user);
}
