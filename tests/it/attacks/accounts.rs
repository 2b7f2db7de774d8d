//! Thieves of refresh tokens.

use futures_util::StreamExt;
use futures_util::stream;

use crate::people::stolen::{Ending, race};
use crate::world::World;

const RACES: usize = 200;
const AT_ONCE: usize = 10;

/// The bound is that of the promise: out within 5 s, in every race.
#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn a_thief_is_out_within_five_seconds_in_every_race() {
    let world = World::shared();
    let endings = [Ending::Reuse, Ending::SignOut, Ending::SignOutEverywhere];
    let races = stream::iter((0..RACES).map(|n| race(world, endings[n % endings.len()])));
    races.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    println!("{RACES} races of a thief who rotates in a loop: out within 5 s in all of them");
}
