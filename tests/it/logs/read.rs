//! A node's log, a JSON document a line.

use std::path::PathBuf;
use std::time::Duration;

use roomgate::dev::Options;
use serde_json::Value;

use crate::session::small_world;
use crate::world::World;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A small world that logs JSON, with the limits of the configuration's file.
pub async fn logging_world(change: impl FnOnce(Options) -> Options) -> World {
    small_world(|mut options| {
        options.env.retain(|(name, _)| !name.starts_with("ROOMGATE__LIMITS__"));
        change(options.set("log.format", "json"))
    })
    .await
}

fn log(world: &World) -> PathBuf {
    world.cluster().nodes()[0].service().log().to_owned()
}

pub fn log_text(world: &World) -> String {
    std::fs::read_to_string(log(world)).unwrap()
}

/// All lines so far. One that is no JSON panics; the last may not be whole yet.
pub fn lines(world: &World) -> Vec<Value> {
    let text = log_text(world);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// The first line that fits, behind the first `skip`; waits for it.
pub async fn line(world: &World, skip: usize, fits: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            if let Some(line) = lines(world).into_iter().skip(skip).find(&fits) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(line) => line,
        Err(_) => panic!("no such line in\n{}", log_text(world)),
    }
}
