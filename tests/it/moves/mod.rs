//! Slots move between shards: what people notice of it, which is a pause.

mod faults;
mod growing;
mod killed;
mod left;
mod live;

use std::path::PathBuf;
use std::process::Output;

use roomgate::ids::{RoomId, Slot};
use roomgate::placement::slot_of;
use serde_json::Value;
use tokio::process::Command;

use crate::world::World;

pub fn slot(room: u64) -> Slot {
    slot_of(RoomId::new(room).unwrap())
}

/// A verb of `roomgate shards`, with the first node's configuration, beside whatever
/// else is going on.
pub async fn shards(world: &World, verb: &[&str]) -> Output {
    command(world, verb).output().await.unwrap()
}

fn command(world: &World, verb: &[&str]) -> Command {
    let file: PathBuf = world.cluster().report().jwt.key_file.with_file_name("nodes/node-1.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomgate"));
    command.arg("shards").args(verb).arg("--config").arg(file).kill_on_drop(true);
    command
}

/// What it printed as JSON; it must have ended well.
pub async fn told(world: &World, verb: &[&str]) -> Value {
    let output = shards(world, &[verb, &["--json"]].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{verb:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Of the shard that owns the slot.
pub async fn owner(world: &World, slot: Slot) -> String {
    let verified = told(world, &["verify", "--slots", &slot.0.to_string()]).await;
    let on = verified["slots"][0]["on"].as_array().unwrap();
    let active = on.iter().find(|entry| entry["state"] == "active").unwrap_or_else(|| panic!("{verified}"));
    active["shard"].as_str().unwrap().to_owned()
}
