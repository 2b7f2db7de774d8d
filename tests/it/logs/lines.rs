//! What lines carry: ids of requests and sessions, names of slow statements; and
//! what they never do.

use roomgate::dev::Api;
use serde_json::{Value, json};

use super::read::{line, lines, log_text, logging_world};
use crate::client::rect;

/// The span `name` of a line.
fn span<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line["spans"].as_array()?.iter().find(|span| span["name"] == name)
}

#[tokio::test]
async fn what_is_logged_of_a_request_or_a_session_says_which() {
    let world = logging_world(|options| options.set("log.filter", "info,roomgate::session=debug")).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    let opened = line(&world, 0, |line| line["session"] == client.session.as_str()).await;
    assert_eq!(span(&opened, "request").unwrap()["route"], "/v1/ws", "the request that became the session");

    // From now on whatever asks for a room fails.
    let admin = world.primaries().await.remove(0);
    admin.batch_execute("REVOKE ALL ON room FROM roomgate").await.unwrap();
    let skip = lines(&world).len();
    let node = world.cluster().nodes()[0].url();
    let api = Api::new(&node).signed_in(&alice.token).with("x-request-id", "walk-7");
    let answer = api.get(&format!("/v1/rooms/{room}")).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.headers["x-request-id"]), (503, &"walk-7".parse().unwrap()));
    let failed = line(&world, skip, |line| span(line, "request").is_some()).await;
    let request = span(&failed, "request").unwrap();
    assert_eq!(request["request_id"], "walk-7", "{failed}");
    assert_eq!((&request["method"], &request["route"]), (&json!("GET"), &json!("/v1/rooms/{room}")));
    assert_eq!((&failed["level"], span(&failed, "session")), (&json!("ERROR"), None), "{failed}");

    let refused = client.refused(&json!({"type": "join", "room": room}).to_string()).await;
    assert_eq!(refused["code"], "shard_unavailable", "{refused}");
    let failed = line(&world, skip, |line| span(line, "session").is_some()).await;
    assert_eq!(span(&failed, "session").unwrap()["session"], client.session.as_str(), "{failed}");

    // A stream is a session that a request opens.
    let live = Api::new(&node).signed_in(&alice.token).with("x-request-id", "walk-8");
    let answer = live.get(&format!("/v1/rooms/{room}/live")).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text);
    let both =
        line(&world, skip, |line| span(line, "request").is_some_and(|r| r["request_id"] == "walk-8")).await;
    assert!(span(&both, "session").is_some(), "{both}");
    assert!(!log_text(&world).contains(&alice.token), "a token is logged");
}

#[tokio::test]
async fn a_slow_statement_is_logged_once_by_its_name_and_without_its_data() {
    let world = logging_world(|options| options).await;
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut client = world.client(0, &alice).await;
    client.join(room).await;
    let admin = world.primaries().await.remove(0);
    admin
        .batch_execute(
            "CREATE FUNCTION dawdles() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(TG_ARGV[0]::float); RETURN NEW; END $$;
             CREATE TRIGGER just BEFORE INSERT ON room_event FOR EACH ROW
               WHEN (NEW.op_id = 'just-slow') EXECUTE FUNCTION dawdles(1.2);
             CREATE TRIGGER dawdles BEFORE INSERT ON room_event FOR EACH ROW
               WHEN (NEW.op_id = 'culprit') EXECUTE FUNCTION dawdles(2);",
        )
        .await
        .unwrap();
    let mut shape = rect("a", 1);
    shape["text"] = "nobody's business".into();
    for op in ["before", "just-slow", "culprit", "after"] {
        shape["id"] = op.into();
        let ack = client.submit(room, op, &json!({"kind": "shape.add", "shape": shape})).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    // On a busy machine other statements may be slow as well.
    let elapsed = |line: &Value| line["elapsed_ms"].as_u64().unwrap();
    let mut slow: Vec<Value> = lines(&world)
        .into_iter()
        .filter(|line| line["message"] == "a slow statement" && line["statement"] == "append_add_events")
        .filter(|line| elapsed(line) >= 1200)
        .collect();
    slow.sort_by_key(elapsed);
    let [.., line] = &slow[..] else { panic!("no statement was slow") };
    assert!(elapsed(line) >= 2000, "{slow:?}");
    assert_eq!(slow.len(), 2, "one line for each: {slow:?}");
    assert_eq!(line["level"], "WARN", "{line}");
    let shard = world.cluster().shards()[0];
    let endpoint = shard.primary().endpoint().name;
    assert_eq!((&line["shard"], &line["endpoint"]), (&json!(shard.name()), &json!(endpoint)), "{line}");
    let log = log_text(&world);
    for data in ["nobody's business", "culprit", &alice.user] {
        assert!(!log.contains(data), "{data} is logged");
    }
}
