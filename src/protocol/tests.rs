//! What clients may say and how it is refused; what the server says.

use serde_json::{Value, json};

use super::server::{Effect, EventsPage, JoinMode, Joined, Member, SnapshotPage};
use super::*;
use crate::clock::UnixMillis;
use crate::ids::{OpId, RoomId, SessionId, ShapeId, Slug, UserId};
use crate::position::{Epoch, Position, Seq};

const LIMITS: FrameLimits = FrameLimits { frame_bytes: 4096, message_bytes: 600, json_depth: 8 };

fn read(text: &str) -> Vec<Inbound> {
    read_frame(text, LIMITS).expect("the session goes on")
}

fn one(text: &str) -> Inbound {
    let mut items = read(text);
    assert_eq!(items.len(), 1, "{text}");
    items.remove(0)
}

fn accepted(text: &str) -> ClientMessage {
    one(text).message.unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
}

fn code(inbound: &Inbound) -> Option<Code> {
    inbound.message.as_ref().err().map(|refused| refused.refusal.code)
}

/// The answer to a refused message, as a client reads it.
fn answer(text: &str) -> Value {
    let inbound = one(text);
    let refused = inbound.message.as_ref().expect_err(text);
    parsed(&server::refusal(&inbound, refused))
}

fn parsed(json: &Json) -> Value {
    Value::Object(strict::object(json.as_str(), 16).expect("the server speaks strict JSON"))
}

fn room(id: u64) -> RoomId {
    RoomId::new(id).unwrap()
}

#[test]
fn a_frame_is_one_message_or_an_array_of_messages() {
    assert_eq!(read(r#"{"type":"ping"}"#).len(), 1);
    assert_eq!(read(" \n{\"type\":\"ping\"} ").len(), 1);
    let two = read(r#"[{"type":"ping"}, {"type":"leave","room":3}]"#);
    assert_eq!(two[0].index, Some(0));
    assert_eq!(two[1].index, Some(1));
    assert_eq!(two[1].message, Ok(ClientMessage::Leave { room: room(3) }));
    assert_eq!(one(r#"{"type":"ping"}"#).index, None);
    assert!(read("[]").is_empty());
    assert!(read(" [ ] ").is_empty());
}

#[test]
fn items_are_handled_each_alone() {
    let items = read(r#"[{"type":"ping"},[{"type":"ping"}],7,null,"x",{"a":1,"a":2},{"type":"ping"}]"#);
    let codes: Vec<_> = items.iter().map(code).collect();
    let bad = Some(Code::BadMessage);
    assert_eq!(codes, [None, bad, bad, bad, bad, Some(Code::BadJson), None]);
    assert!(items.iter().enumerate().all(|(at, item)| item.index == Some(at)));
}

#[test]
fn an_unparseable_frame_is_one_bad_json() {
    for text in ["", "nope", "{", "[{\"type\":\"ping\"},", "[{}", "{} {}", "[1]x", "{\"a\":}", "\u{feff}{}"] {
        assert_eq!(code(&one(text)), Some(Code::BadJson), "{text}");
    }
    for text in ["1", "\"hello\"", "null", "true"] {
        assert_eq!(code(&one(text)), Some(Code::BadMessage), "{text}");
    }
}

#[test]
fn too_many_items_or_bytes_end_the_session_with_1009() {
    let pings = |n: usize| format!("[{}]", vec!["{}"; n].join(","));
    assert_eq!(read(&pings(256)).len(), 256);
    assert_eq!(read_frame(&pings(257), LIMITS), Err(CloseCode::TooBig));
    let long = format!("{{\"type\":\"ping\",\"x\":\"{}\"}}", "x".repeat(4096));
    assert_eq!(read_frame(&long, LIMITS), Err(CloseCode::TooBig));
}

#[test]
fn a_message_too_large_is_refused_and_the_rest_goes_on() {
    let large = format!(r#"{{"type":"signal","room":5,"data":"{}"}}"#, "x".repeat(600));
    let items = read(&format!(r#"[{{"type":"ping"}},{large},{{"type":"ping"}}]"#));
    assert_eq!(items.iter().map(code).collect::<Vec<_>>(), [None, Some(Code::TooLarge), None]);
    assert_eq!(answer(&large)["of"], "signal");
}

#[test]
fn a_submit_with_readable_room_and_op_gets_its_reject_whatever_is_wrong_with_it() {
    let long = "x".repeat(700);
    for (rest, code) in [
        (r#""kind":"fly""#.to_owned(), "bad_message"),
        (r#""kind":"shape.add""#.to_owned(), "bad_message"),
        (r#""kind":"shape.add","shape":7"#.to_owned(), "invalid_shape"),
        (r#""kind":"shape.add","shape":{"id":""}"#.to_owned(), "invalid_shape"),
        (r#""kind":"shape.add","shape":{"id":"a","x":1,"x":2}"#.to_owned(), "bad_json"),
        (r#""kind":"shape.add","shape":{"id":"a","x":1e999}"#.to_owned(), "bad_json"),
        (r#""kind":"shape.add","shape":{"id":"a","x":"\u0000"}"#.to_owned(), "bad_json"),
        (r#""kind":"shape.add","shape":{"id":"a","x":"\ud800"}"#.to_owned(), "bad_json"),
        (r#""kind":"shape.add","shape":{"id":"a","x":[[[[[[[1]]]]]]]}"#.to_owned(), "too_deep"),
        (r#""kind":"shape.put","shape":{"id":"a"},"base":-1"#.to_owned(), "bad_message"),
        (r#""kind":"shape.put","shape":{"id":"a"},"base":"1""#.to_owned(), "bad_message"),
        (r#""kind":"room.clear","kind":"room.clear""#.to_owned(), "bad_json"),
        (r#""kind":"room.clear","other":{"a":1,"a":2}"#.to_owned(), "bad_json"),
        (r#""kind":"room.clear","\u0000":1"#.to_owned(), "bad_json"),
        (r#""kind":"room.clear","id":{}"#.to_owned(), "bad_message"),
        (format!(r#""kind":"message","data":"{long}""#), "too_large"),
    ] {
        let reply = answer(&format!(r#"{{"type":"submit","room":5,"op":"o-1",{rest}}}"#));
        assert_eq!(reply["type"], "reject", "{rest}");
        assert_eq!((&reply["room"], &reply["op"]), (&json!(5), &json!("o-1")), "{rest}");
        assert_eq!(reply["code"], code, "{rest}");
    }
}

#[test]
fn everything_else_refused_gets_an_error_that_says_what_it_was() {
    for (text, expected) in [
        (
            r#"{"type":"fly","id":7,"room":5}"#,
            json!({"code":"unknown_type","of":"fly","id":7,"room":5,"message":"unknown message type"}),
        ),
        (r#"{"room":5}"#, json!({"code":"bad_message","room":5,"message":"type is missing"})),
        (
            r#"{"type":"submit","room":5,"kind":"room.clear"}"#,
            json!({"code":"bad_message","of":"submit","room":5,"message":"op is missing"}),
        ),
        (
            r#"{"type":"leave","room":0,"id":"x"}"#,
            json!({"code":"bad_message","of":"leave","id":"x","message":"room must be an integer from 1 to 2^53-1"}),
        ),
        (
            r#"{"type":"join","room":1,"from":{"epoch":1,"seq":-1}}"#,
            json!({"code":"bad_message","of":"join","room":1,"message":"from must be {epoch, seq}, two integers ≥ 0"}),
        ),
    ] {
        let mut expected = expected;
        expected["type"] = json!("error");
        assert_eq!(answer(text), expected, "{text}");
    }
    let items = read(r#"[{"type":"ping"},{"type":"refresh"}]"#);
    let reply = parsed(&server::refusal(&items[1], items[1].message.as_ref().unwrap_err()));
    assert_eq!(reply["index"], 1);
}

#[test]
fn an_op_that_came_twice_is_not_readable() {
    let reply = answer(r#"{"type":"submit","room":5,"op":"a","op":"b","kind":"room.clear"}"#);
    assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!("bad_json")));
}

#[test]
fn joins_name_a_room_by_id_or_slug_and_any_u64_seq() {
    let ClientMessage::Join(join) =
        accepted(r#"{"type":"join","room":5,"from":{"epoch":9,"seq":18446744073709551615},"password":null}"#)
    else {
        panic!("a join");
    };
    assert_eq!(join.room, RoomRef::Id(room(5)));
    assert_eq!(join.from, Some(Position::new(Epoch(9), Seq(u64::MAX))));
    assert_eq!(join.password, None);
    let ClientMessage::Join(join) = accepted(r#"{"type":"join","slug":"my-room","password":"geheim"}"#)
    else {
        panic!("a join");
    };
    assert_eq!(join.room, RoomRef::Slug(Slug::new("my-room").unwrap()));
    assert_eq!(join.password.as_deref(), Some("geheim"));
    assert_eq!(code(&one(r#"{"type":"join"}"#)), Some(Code::BadMessage));
}

#[test]
fn hello_ping_refresh_and_signal_carry_what_was_sent() {
    let hello = accepted(r#"{"type":"hello","token":"t","client":{"name":"n","version":"1"},"new":[]}"#);
    let client = ClientInfo { name: Some("n".into()), version: Some("1".into()) };
    assert_eq!(hello, ClientMessage::Hello { token: Some("t".into()), client: Some(client) });
    assert_eq!(accepted(r#"{"type":"hello"}"#), ClientMessage::Hello { token: None, client: None });
    assert_eq!(accepted(r#"{"type":"ping","t":1.50}"#), ClientMessage::Ping { t: Some("1.50".into()) });
    assert_eq!(accepted(r#"{"type":"refresh","token":"t"}"#), ClientMessage::Refresh { token: "t".into() });
    assert_eq!(
        accepted("{\"type\":\"signal\",\"room\":1,\"data\":{\"x\":\n1.0}}"),
        ClientMessage::Signal { room: room(1), data: "{\"x\":1.0}".into() }
    );
}

#[test]
fn a_signal_has_at_most_a_kibibyte_of_json() {
    let limits = FrameLimits { message_bytes: 0, ..LIMITS };
    let signal = |n: usize| format!(r#"{{"type":"signal","room":1,"data":"{}"}}"#, "x".repeat(n));
    assert!(read_frame(&signal(1022), limits).unwrap()[0].message.is_ok());
    assert_eq!(code(&read_frame(&signal(1023), limits).unwrap()[0]), Some(Code::TooLarge));
}

#[test]
fn bodies_keep_the_text_they_were_sent_as() {
    let shape = r#"{"type":"x","id":"a","n":1.50,"e":1e2,"s":"\u00e9é😀","big":-18446744073709551615}"#;
    let text =
        format!(r#"{{"type":"submit","room":1,"op":"o","kind":"shape.put","base":3,"shape":{shape}}}"#);
    let ClientMessage::Submit { operation: Operation::ShapePut { shape: read, base }, .. } = accepted(&text)
    else {
        panic!("a put");
    };
    assert_eq!(&*read.body.json, shape);
    assert_eq!(read.id, ShapeId::new("a").unwrap());
    assert_eq!(base, Some(Version(3)));
    assert_eq!(read.body.value["s"], json!("éé😀"));
}

#[test]
fn every_kind_is_read() {
    let submit = |rest: &str| accepted(&format!(r#"{{"type":"submit","room":1,"op":"o",{rest}}}"#));
    for (rest, kind) in [
        (r#""kind":"shape.add","shape":{"id":"a"}"#, Kind::ShapeAdd),
        (r#""kind":"shape.put","shape":{"id":"a"}"#, Kind::ShapePut),
        (r#""kind":"shape.update","shape_id":"a","patch":{"x":null}"#, Kind::ShapeUpdate),
        (r#""kind":"shape.delete","shape_id":"a","base":null"#, Kind::ShapeDelete),
        (r#""kind":"room.clear""#, Kind::RoomClear),
        (r#""kind":"message","data":null"#, Kind::Message),
    ] {
        let ClientMessage::Submit { operation, .. } = submit(rest) else { panic!("{rest}") };
        assert_eq!(operation.kind(), kind);
    }
}

#[test]
fn answers_echo_the_id_and_escape_what_people_wrote() {
    let inbound = one(r#"{"type":"ping","id":"a\"b"}"#);
    let id = inbound.id.as_ref();
    assert_eq!(parsed(&server::pong(id, Some("[1]"), UnixMillis(7)))["id"], "a\"b");
    let name = "a\"b\\\n\u{1b}[31m<script>é😀\u{7f}".to_owned();
    let member = Member {
        session: SessionId::new("s").unwrap(),
        user: UserId::new("u").unwrap(),
        name: name.clone(),
        role: Role::Editor,
    };
    let joined = server::joined(
        None,
        &Joined {
            room: room(5),
            slug: &Slug::new("abc").unwrap(),
            head: Position::new(Epoch(2), Seq(9)),
            role: Role::Owner,
            mode: JoinMode::Resume,
            members: &[member],
            count: 1,
        },
    );
    assert_eq!(
        parsed(&joined),
        json!({
            "type":"joined","room":5,"slug":"abc","epoch":2,"head":9,"role":"owner","mode":"resume",
            "members":[{"session":"s","user":"u","name":name,"role":"editor"}],"count":1,
        })
    );
    let refusal = Refusal::new(Code::BadPassword, name.clone()).retry_after_ms(250);
    let error = parsed(&server::error(None, Some(3), Some("x\"y"), None, &refusal));
    assert_eq!(
        error,
        json!({"type":"error","index":3,"of":"x\"y","code":"bad_password","message":name,"retry_after_ms":250})
    );
}

#[test]
fn acks_and_rejects_say_only_what_applies() {
    let op = OpId::new("o").unwrap();
    let mut effect = Effect {
        position: Position::new(Epoch(2), Seq(9)),
        version: None,
        duplicate: false,
        cleared: Some(0),
    };
    let ack = parsed(&server::ack(None, room(5), &op, &effect));
    assert_eq!(ack, json!({"type":"ack","room":5,"op":"o","epoch":2,"seq":9,"cleared":0}));
    (effect.cleared, effect.version, effect.duplicate) = (None, Some(Version(4)), true);
    let ack = parsed(&server::ack(None, room(5), &op, &effect));
    assert_eq!(ack, json!({"type":"ack","room":5,"op":"o","epoch":2,"seq":9,"version":4,"duplicate":true}));
    let refusal = Refusal::new(Code::VersionConflict, "no");
    let current = |shape| Some(server::Collision { version: Version(4), shape });
    let reject = parsed(&server::reject(None, room(5), &op, &refusal, current(Some("{\"id\":1.0}"))));
    assert_eq!(reject["current"], json!({"version":4,"shape":{"id":1.0},"deleted":false}));
    let reject = parsed(&server::reject(None, room(5), &op, &refusal, current(None)));
    assert_eq!(reject["current"], json!({"version":4,"deleted":true}));
    let never = Some(server::Collision { version: Version(0), shape: None });
    let reject = parsed(&server::reject(None, room(5), &op, &refusal, never));
    assert_eq!(reject["current"], json!({"version":0,"deleted":false}));
}

#[test]
fn pages_splice_what_is_encoded_already() {
    let shapes = [server::shape_item(Version(2), r#"{"id":"a","n":1.50}"#), "{}".to_owned()];
    let page = server::snapshot(&SnapshotPage {
        room: room(5),
        position: Position::new(Epoch(2), Seq(9)),
        shapes: &shapes,
        page: 1,
        last: true,
    });
    assert_eq!(
        page.as_str(),
        r#"{"type":"snapshot","room":5,"epoch":2,"seq":9,"shapes":[{"version":2,"shape":{"id":"a","n":1.50}},{}],"page":1,"last":true}"#
    );
    let empty = server::events::<&str>(&EventsPage {
        room: room(5),
        from: Seq(10),
        to: Seq(9),
        head: Position::new(Epoch(2), Seq(9)),
        events: &[],
        last: true,
    });
    assert_eq!(
        empty.as_str(),
        r#"{"type":"events","room":5,"epoch":2,"from":10,"to":9,"head":9,"events":[],"last":true}"#
    );
}
