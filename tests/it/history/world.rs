//! A small vocabulary for old states: rooms with a past, and what it was.

use std::collections::BTreeMap;

use roomgate::dev::{Admin, Api};
use serde_json::{Value, json};

use crate::client::rect;
use crate::view::View;
use crate::world::{Person, World};

/// Live shapes with their versions.
pub type State = BTreeMap<String, (u64, Value)>;

/// Draws `count` accepted events of all kinds; gives the state after each, from
/// the empty one on.
pub async fn draw(world: &World, person: &Person, room: u64, count: usize) -> Vec<State> {
    let mut client = world.client(0, person).await;
    client.joins_in_time(room).await;
    for number in 0..count {
        let answer = client.submit(room, &format!("op-{number}"), &drawing(number)).await;
        assert_eq!(answer["type"], "ack", "{answer}");
    }
    client.catches_up(room, count as u64).await;
    let mut view = View { live: true, ..View::default() };
    let mut states = vec![State::new()];
    for event in &client.rooms[&room].seen {
        view.event(event);
        states.push(view.shapes.clone());
    }
    states
}

/// The event `number`, which is always accepted: shapes come, change and go, are
/// cleared and revived.
fn drawing(number: usize) -> Value {
    let id = |n: usize| format!("s{n}");
    match number % 10 {
        8 if number % 90 == 88 => json!({"kind": "room.clear"}),
        9 if number % 90 == 89 => json!({"kind": "shape.put", "shape": rect(&id(number - 2), 7), "base": 2}),
        5 => {
            json!({"kind": "shape.update", "shape_id": id(number - 1), "patch": {"x": number, "c": {"d": null}}})
        }
        6 => json!({"kind": "shape.delete", "shape_id": id(number - 3)}),
        7 => json!({"kind": "shape.put", "shape": rect(&id(number), 1)}),
        8 => json!({"kind": "message", "data": {"n": number}}),
        _ => json!({"kind": "shape.add", "shape": rect(&id(number), number as i32)}),
    }
}

/// The state at `seq`, page by page.
pub async fn state_at(api: &Api, room: u64, seq: u64, limit: usize) -> State {
    let mut state = State::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/rooms/{room}/shapes?seq={seq}&limit={limit}{cursor}");
        let answer = api.get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let page = answer.json();
        assert_eq!(page["seq"], seq);
        for item in page["items"].as_array().unwrap() {
            let id = item["shape"]["id"].as_str().unwrap().to_owned();
            state.insert(id, (item["version"].as_u64().unwrap(), item["shape"].clone()));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return state,
        }
    }
}

/// The room's shard, as a superuser.
pub async fn shard(world: &World, room: u64) -> Admin {
    let index = world.shard_of(room).await;
    world.primaries().await.swap_remove(index)
}

/// The seqs of a room's snapshots, once there are `count` or more.
pub async fn snapshots(admin: &Admin, room: u64, count: usize) -> Vec<u64> {
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let rows = "SELECT seq FROM room_snapshot WHERE room_id = $1 ORDER BY seq";
        let rows = admin.query(rows, &[&i64::try_from(room).unwrap()]).await.unwrap();
        if rows.len() >= count {
            return rows.iter().map(|row| row.get::<_, i64>(0) as u64).collect();
        }
        assert!(tokio::time::Instant::now() < end, "{} snapshots instead of {count}", rows.len());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
