//! Many events at once, over HTTP, recorded like any other submits.

use std::sync::Arc;

use roomgate::dev::{Api, Gateway};
use serde_json::{Value, json};

use crate::Failure;
use crate::cluster::World;
use crate::history::{Answer, Attempt, Connection, Diary, Position};
use crate::load::Load;

const BYTES_A_REQUEST: usize = 900_000;

/// Writes `events` messages of `bytes` each to the corner room, through
/// one node.
pub async fn write(
    world: &World,
    load: &mut Load,
    node: &Gateway,
    events: usize,
    bytes: usize,
) -> Result<(), Failure> {
    let room = world.rooms.last().ok_or("no room")?.id;
    let user = format!("burst-{}", load.written.len());
    let api = Api::new(&node.url()).signed_in(&world.token(&user)?);
    let connection = Connection { node: node.name().to_owned(), ..Connection::default() };
    let mut diary = Diary { user, connections: vec![connection], ..Diary::default() };
    let at_once = (BYTES_A_REQUEST / bytes).clamp(1, 1_000);
    let mut written = 0;
    while written < events {
        let count = at_once.min(events - written);
        let items: Vec<Value> = (written..written + count)
            .map(|n| json!({"op": format!("burst-{n}"), "kind": "message", "data": {"n": n, "text": "x".repeat(bytes)}}))
            .collect();
        written += count;
        let first = diary.attempts.len();
        diary.attempts.extend(items.iter().map(|item| Attempt {
            connection: 0,
            room,
            op: item["op"].as_str().unwrap_or_default().to_owned(),
            body: Arc::new(json!({"kind": "message", "data": item["data"]})),
            sent: load.shared.clock.now(),
            answer: None,
        }));
        let answer = api.post(&format!("/v1/rooms/{room}/events"), &json!({"items": items})).await?;
        let now = load.shared.clock.now();
        let body = answer.json();
        let answers = body["items"].as_array().ok_or_else(|| format!("{} {}", answer.status, answer.text))?;
        for (attempt, answer) in diary.attempts[first..].iter_mut().zip(answers) {
            let answered = match Position::of(answer) {
                Some(at) => {
                    load.shared.note_ack(room, at);
                    Answer::Ack { at, duplicate: answer["duplicate"] == true }
                }
                None => Answer::Reject { code: answer["code"].as_str().unwrap_or_default().to_owned() },
            };
            attempt.answer = Some((now, answered));
        }
    }
    load.written.push(diary);
    Ok(())
}
