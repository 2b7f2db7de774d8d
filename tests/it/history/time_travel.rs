//! `GET /v1/rooms/{room}/shapes?seq=N`: the room as it was.

use serde_json::json;

use super::world::{draw, shard, snapshots, state_at};
use crate::client::rect;
use crate::world::World;

const EVENTS: usize = 350;

#[tokio::test]
async fn the_state_at_every_seq_is_what_the_log_made_of_it_then() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let states = draw(world, &alice, room, EVENTS).await;
    // Without a snapshot, with some, at one of them: the answer is the same.
    for seq in [0, 1, 89, 90] {
        assert_eq!(state_at(&world.api_of(0, &alice), room, seq, 1000).await, states[seq as usize]);
    }
    assert_eq!(snapshots(&shard(world, room).await, room, 3).await, [100, 200, 300]);
    for (node, seq) in (0..=EVENTS).step_by(7).chain([99, 100, 101, 300, EVENTS]).enumerate() {
        let api = world.api_of(node % 3, &alice);
        assert_eq!(state_at(&api, room, seq as u64, 1000).await, states[seq], "at {seq}");
    }
}

#[tokio::test]
async fn all_pages_of_an_old_state_are_of_its_seq_on_every_node_while_others_draw() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let states = draw(world, &alice, room, 250).await;
    let mut drawer = world.client(1, &alice).await;
    drawer.join(room).await;
    let mut cursor = String::new();
    let mut ids = Vec::new();
    for page in 0.. {
        let put = json!({"kind": "shape.put", "shape": rect("new", page)});
        assert_eq!(drawer.submit(room, &format!("late-{page}"), &put).await["type"], "ack");
        let path = format!("/v1/rooms/{room}/shapes?seq=230&limit=10{cursor}");
        let answer = world.api_of(page as usize % 3, &alice).get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let answer = answer.json();
        assert_eq!(answer["seq"], 230);
        let items = answer["items"].as_array().unwrap();
        ids.extend(items.iter().map(|item| item["shape"]["id"].as_str().unwrap().to_owned()));
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(ids.len() > 20, "several pages");
    assert_eq!(ids, states[230].keys().cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_not_yet_or_is_no_more_is_told_apart() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let states = draw(world, &alice, room, 250).await;
    let admin = shard(world, room).await;
    snapshots(&admin, room, 2).await;
    let api = world.api_of(2, &alice);
    let refused = async |seq: &str| {
        let answer = api.get(&format!("/v1/rooms/{room}/shapes?seq={seq}")).await.unwrap();
        (answer.status.as_u16(), answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    for ahead in ["251", "9007199254740993", "18446744073709551615"] {
        assert_eq!(refused(ahead).await, is(409, "ahead_of_log"), "{ahead}");
    }
    for bad in ["-1", "x", "1.5", "18446744073709551616", ""] {
        assert_eq!(refused(bad).await, is(400, "bad_message"), "{bad}");
    }
    admin
        .batch_execute(&format!(
            "DELETE FROM room_event WHERE room_id = {room} AND seq <= 200;
             DELETE FROM room_snapshot WHERE room_id = {room} AND seq < 200"
        ))
        .await
        .unwrap();
    // Read where the deletion is known: a replica may still have what was there.
    for below in ["1&freshness=primary", "199&freshness=primary"] {
        assert_eq!(refused(below).await, is(410, "below_retention"), "{below}");
    }
    for seq in [0, 200, 201, 250] {
        assert_eq!(state_at(&api, room, seq, 1000).await, states[seq as usize], "at {seq}");
    }
}

#[tokio::test]
async fn nodes_that_make_the_same_snapshot_at_once_make_one_and_a_broken_part_is_never_seen() {
    let world = World::shared();
    let alice = world.person("alice");
    let rooms = [world.room(&alice, "drawing").await, world.room(&alice, "drawing").await];
    for room in rooms {
        draw(world, &alice, room, 220).await;
        let admin = shard(world, room).await;
        assert_eq!(snapshots(&admin, room, 2).await, [100, 200]);
        let torn = "SELECT count(*) FROM room_snapshot AS whole
                     WHERE room_id = $1 AND parts <> (SELECT count(*) FROM room_snapshot_part AS part
                            WHERE part.room_id = whole.room_id AND part.seq = whole.seq)";
        let torn: i64 = admin.query_one(torn, &[&i64::try_from(room).unwrap()]).await.unwrap().get(0);
        assert_eq!(torn, 0);
    }
}
