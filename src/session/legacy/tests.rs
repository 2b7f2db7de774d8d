use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{Known, Translator};
use crate::ids::RoomId;
use crate::position::Seq;
use crate::protocol::{ClientMessage, Code, FrameLimits, Json, Operation, RoomRef};

const LIMITS: FrameLimits = FrameLimits { frame_bytes: 1 << 20, message_bytes: 1 << 16, json_depth: 32 };

/// What the client is sent when the session says `messages`, in one chunk.
fn told(translator: &mut Translator, messages: &[Value]) -> Vec<Value> {
    let parts: Vec<Json> = messages.iter().map(|message| Json::one(message.to_string())).collect();
    let mut out = VecDeque::new();
    translator.outgoing(&Json::join(&parts), &mut out);
    out.iter().map(|json| serde_json::from_str(json.as_str()).unwrap()).collect()
}

fn says(translator: &mut Translator, message: &Value) -> Result<ClientMessage, Code> {
    let inbound = translator.incoming(&message.to_string(), LIMITS);
    inbound.message.map_err(|refused| refused.refusal.code)
}

/// A client that is in room 7, which it writes as a string, with one shape.
fn in_room() -> Translator {
    let mut translator = Translator::default();
    says(&mut translator, &json!({"type":"join_room","roomId":"7"})).unwrap();
    let told = told(
        &mut translator,
        &[
            json!({"type":"joined","room":7,"mode":"snapshot"}),
            json!({"type":"snapshot","room":7,"shapes":[{"version":1,"shape":rect("a", 1)}],"page":1,"last":true}),
        ],
    );
    assert_eq!(told, Vec::<Value>::new(), "what is there already is read over HTTP");
    translator
}

fn rect(id: &str, x: i64) -> Value {
    json!({"id":id,"type":"rect","x":x,"y":0,"width":1,"height":1})
}

fn event(kind: &str, body: Value) -> Value {
    let mut event = json!({"type":"event","room":7,"epoch":1,"seq":2,"kind":kind,"op":"o","user":"u","at":0});
    event.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    event
}

fn chat(shape: &Value) -> Value {
    json!({"type":"chat","message":json!({ "shape": shape }).to_string(),"roomId":"7"})
}

#[track_caller]
fn assert_same(told: &[Value], expected: &[Value]) {
    // `message` holds JSON as a text; the order of its keys means nothing.
    let read = |message: &Value| {
        let mut message = message.clone();
        if let Some(text) = message.get("message").and_then(Value::as_str)
            && let Ok(inner) = serde_json::from_str::<Value>(text)
        {
            message["message"] = inner;
        }
        message
    };
    let (told, expected): (Vec<_>, Vec<_>) =
        (told.iter().map(read).collect(), expected.iter().map(read).collect());
    assert_eq!(told, expected);
}

#[test]
fn a_drawn_shape_becomes_a_put_with_its_text_unchanged() {
    let mut translator = Translator::default();
    let message = r#"{"shape":{"type":"rect","x":1.50,"y":2e0,"width":3,"height":4,"id":"s1"}}"#;
    let put = says(&mut translator, &json!({"type":"chat","roomId":7,"message":message})).unwrap();
    let ClientMessage::Submit { room, operation: Operation::ShapePut { shape, base: None }, .. } = put else {
        panic!("{put:?}");
    };
    assert_eq!((room.get(), shape.id.as_str()), (7, "s1"));
    assert_eq!(&*shape.body.json, r#"{"type":"rect","x":1.50,"y":2e0,"width":3,"height":4,"id":"s1"}"#);
}

#[test]
fn a_shape_without_an_id_gets_one() {
    let mut translator = Translator::default();
    let message = r#"{"shape":{"type":"circle","x":1,"y":2,"radius":3}}"#;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..10 {
        match says(&mut translator, &json!({"type":"chat","roomId":7,"message":message})).unwrap() {
            ClientMessage::Submit { operation: Operation::ShapePut { shape, .. }, .. } => {
                assert_eq!(shape.body.value["id"], shape.id.as_str());
                assert!(shape.body.json.contains(shape.id.as_str()));
                ids.insert(shape.id);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ids.len(), 10);
}

#[test]
fn a_message_without_a_shape_is_a_text() {
    let mut translator = Translator::default();
    for text in ["hello", "{\"no\":\"shape\"}", "{\"shape\":5}", "[1]", "\u{202e}مرحبا 😀"] {
        match says(&mut translator, &json!({"type":"chat","roomId":7,"message":text})).unwrap() {
            ClientMessage::Submit { operation: Operation::Message { data }, .. } => {
                assert_eq!(data.value, json!({ "text": text }));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rooms_are_joined_and_left_by_number_or_numeric_text() {
    let mut translator = Translator::default();
    for name in [json!(7), json!("7")] {
        let join = says(&mut translator, &json!({"type":"join_room","roomId":name})).unwrap();
        let ClientMessage::Join(join) = join else { panic!("{join:?}") };
        assert_eq!(join.room, RoomRef::Id(crate::ids::RoomId::new(7).unwrap()));
        for key in ["roomId", "room"] {
            let leave = says(&mut translator, &json!({"type":"leave_room",key:name})).unwrap();
            assert!(matches!(leave, ClientMessage::Leave { room } if room.get() == 7));
        }
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_code() {
    let mut translator = Translator::default();
    let long = "x".repeat(1 << 16);
    let cases = [
        (json!([]), Code::BadMessage),
        (json!({"roomId":7}), Code::UnknownType),
        (json!({"type":"submit","room":7}), Code::UnknownType),
        (json!({"type":"join_room"}), Code::BadMessage),
        (json!({"type":"join_room","roomId":"seven"}), Code::BadMessage),
        (json!({"type":"join_room","roomId":0}), Code::BadMessage),
        (json!({"type":"join_room","roomId":9_007_199_254_740_992_u64}), Code::BadMessage),
        (json!({"type":"chat","roomId":7,"message":{}}), Code::BadMessage),
        (json!({"type":"chat","roomId":7,"message":long}), Code::TooLarge),
        (
            json!({"type":"chat","roomId":7,"message":"{\"shape\":{\"id\":\"a\",\"id\":\"b\"}}"}),
            Code::BadJson,
        ),
        (json!({"type":"delete_shape","roomId":7}), Code::BadMessage),
    ];
    for (message, code) in cases {
        assert_eq!(says(&mut translator, &message).unwrap_err(), code, "{message}");
    }
    assert_eq!(translator.incoming("{", LIMITS).message.unwrap_err().refusal.code, Code::BadJson);
}

#[test]
fn every_change_of_a_shape_is_told_with_the_whole_shape() {
    let mut translator = in_room();
    let told = told(
        &mut translator,
        &[
            event("shape.add", json!({"shape":rect("b", 5)})),
            event("shape.put", json!({"shape":rect("b", 6)})),
            event("shape.update", json!({"shape_id":"a","patch":{"x":9,"y":null,"fill":{"deep":1}}})),
            event("shape.delete", json!({"shape_id":"b"})),
        ],
    );
    let patched = json!({"id":"a","type":"rect","x":9,"width":1,"height":1,"fill":{"deep":1}});
    assert_same(
        &told,
        &[
            chat(&rect("b", 5)),
            chat(&rect("b", 6)),
            chat(&patched),
            json!({"type":"delete_shape","shapeId":"b","roomId":"7"}),
        ],
    );
}

#[test]
fn a_clear_is_one_deletion_for_each_live_shape() {
    let mut translator = in_room();
    told(&mut translator, &[event("shape.add", json!({"shape":rect("b", 5)}))]);
    let told = told(&mut translator, &[event("room.clear", json!({})), event("room.clear", json!({}))]);
    let deleted = |id| json!({"type":"delete_shape","shapeId":id,"roomId":"7"});
    assert_eq!(told, [deleted("a"), deleted("b")]);
}

#[test]
fn a_text_of_a_newer_client_is_a_chat() {
    let mut translator = in_room();
    let said = [event("message", json!({"data":{"text":"hi"}})), event("message", json!({"data":[1]}))];
    assert_eq!(told(&mut translator, &said), [json!({"type":"chat","message":"hi","roomId":"7"})]);
}

#[test]
fn the_room_is_written_as_the_client_wrote_it_last() {
    let mut translator = in_room();
    says(&mut translator, &json!({"type":"join_room","roomId":7})).unwrap();
    let told = told(&mut translator, &[event("shape.delete", json!({"shape_id":"a"}))]);
    assert_eq!(told, [json!({"type":"delete_shape","shapeId":"a","roomId":7})]);
}

#[test]
fn a_repeated_delete_counts_as_done_and_other_refusals_are_told() {
    let mut translator = in_room();
    let delete = |translator: &mut Translator| match says(
        translator,
        &json!({"type":"delete_shape","roomId":"7","shapeId":"gone"}),
    )
    .unwrap()
    {
        ClientMessage::Submit { op, .. } => op,
        other => panic!("{other:?}"),
    };
    let reject = |op: &str, code: &str| json!({"type":"reject","room":7,"op":op,"code":code,"message":"why"});
    let op = delete(&mut translator);
    let done = told(&mut translator, &[reject(op.as_str(), "shape_deleted")]);
    assert_eq!(done, [json!({"type":"delete_shape","shapeId":"gone","roomId":"7"})]);
    let op = delete(&mut translator);
    let refused = told(&mut translator, &[reject(op.as_str(), "forbidden")]);
    assert_eq!(refused, [json!({"type":"error","code":"forbidden","message":"why","roomId":"7"})]);
    assert!(translator.deletes.is_empty());
    let error = json!({"type":"error","of":"join","code":"bad_json","message":"why"});
    let refused = told(&mut translator, &[error]);
    assert_eq!(refused, [json!({"type":"error","code":"bad_json","message":"why","roomId":null})]);
}

#[test]
fn a_resync_tells_the_difference() {
    let mut translator = in_room();
    told(&mut translator, &[event("shape.add", json!({"shape":rect("b", 5)}))]);
    let page = |page: u64, last: bool, shape: Value| json!({"type":"snapshot","room":7,"shapes":[{"version":1,"shape":shape}],"page":page,"last":last});
    let told = told(
        &mut translator,
        &[
            json!({"type":"resync","room":7,"reason":"position_lost"}),
            page(1, false, rect("a", 1)),
            page(2, true, rect("c", 3)),
        ],
    );
    assert_same(&told, &[json!({"type":"delete_shape","shapeId":"b","roomId":"7"}), chat(&rect("c", 3))]);
}

#[test]
fn what_the_first_protocol_has_no_words_for_is_not_told() {
    let mut translator = in_room();
    let silent = [
        json!({"type":"welcome","session":"s"}),
        json!({"type":"ack","room":7,"op":"x","epoch":1,"seq":1}),
        json!({"type":"presence","room":7,"joined":[],"left":[],"count":1}),
        json!({"type":"signal","room":7,"session":"s","user":"u","data":{"x":1}}),
        json!({"type":"token_expiring","expires_at":1}),
    ];
    assert_eq!(told(&mut translator, &silent), Vec::<Value>::new());
}

/// A client that has `a` and reads the room's events after seq 5.
fn expecting(unsure_to: u64) -> Translator {
    let mut translator = Translator::default();
    says(&mut translator, &json!({"type":"join_room","roomId":"7"})).unwrap();
    let page = json!({"type":"snapshot","room":7,"shapes":[{"version":1,"shape":rect("a", 1)}],"page":1,"last":true});
    let pages = [Json::one(page.to_string())];
    translator.expect(RoomId::new(7).unwrap(), &Known { pages: &pages, unsure_to: Seq(unsure_to) });
    assert_eq!(told(&mut translator, &[json!({"type":"joined","room":7,"mode":"resume"})]), [] as [Value; 0]);
    translator
}

fn events(events: &[(u64, &str, Value)]) -> Value {
    let numbered = events.iter().map(|(seq, kind, body)| {
        let mut event = event(kind, body.clone());
        event["seq"] = json!(seq);
        event
    });
    json!({"type":"events","room":7,"events":numbered.collect::<Vec<_>>(),"last":true})
}

#[test]
fn events_after_the_history_are_told_from_its_state() {
    let told = told(
        &mut expecting(5),
        &[events(&[
            (6, "shape.update", json!({"shape_id":"a","patch":{"x":9}})),
            (7, "shape.add", json!({"shape":rect("b", 2)})),
            (8, "room.clear", json!({})),
        ])],
    );
    let deleted = |id: &str| json!({"type":"delete_shape","shapeId":id,"roomId":"7"});
    assert_same(&told, &[chat(&rect("a", 9)), chat(&rect("b", 2)), deleted("a"), deleted("b")]);
}

#[test]
fn a_shape_the_client_may_have_is_deleted_before_it_is_drawn() {
    let told = told(
        &mut expecting(6),
        &[events(&[
            (6, "shape.add", json!({"shape":rect("b", 2)})),
            (7, "shape.add", json!({"shape":rect("c", 3)})),
        ])],
    );
    let deleted = json!({"type":"delete_shape","shapeId":"b","roomId":"7"});
    assert_same(&told, &[deleted, chat(&rect("b", 2)), chat(&rect("c", 3))]);
}

#[test]
fn a_lost_history_is_an_error_unless_its_state_is_known() {
    let resync = json!({"type":"resync","room":7,"reason":"position_lost"});
    assert_eq!(told(&mut expecting(5), std::slice::from_ref(&resync)), [] as [Value; 0]);
    let mut translator = Translator::default();
    translator.expect(RoomId::new(7).unwrap(), &Known { pages: &[], unsure_to: Seq(5) });
    let told = told(&mut translator, &[json!({"type":"joined","room":7,"mode":"snapshot"}), resync]);
    assert_eq!((&told[0]["type"], &told[0]["code"]), (&json!("error"), &json!("position_lost")));
}

#[test]
fn a_join_keeps_its_id_until_it_succeeds() {
    let mut translator = Translator::default();
    let first = translator.next_join();
    told(&mut translator, &[json!({"type":"error","of":"join","room":7,"code":"unavailable","message":"m"})]);
    assert_eq!(translator.next_join(), first);
    told(&mut translator, &[json!({"type":"joined","room":7,"mode":"resume"})]);
    assert_ne!(translator.next_join(), first);
}
