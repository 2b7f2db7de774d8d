//! Thieves of refresh tokens, and guessers of passwords.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::{future, stream};

use crate::people::lockout;
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

/// Guessers at 40 addresses try passwords of all accounts in a loop. The owners sign
/// in meanwhile, each from an address that signed in before.
#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn guessers_lock_no_owner_out() {
    const PASSWORD: &str = "correct horse";
    let world = lockout::world(2).await;
    let owners = future::join_all((0..10).map(|n| {
        let from = format!("192.0.2.{n}");
        let world = &world;
        async move { (lockout::account(world, &from).await.0, from) }
    }));
    let owners = owners.await;
    let (guesses, checked, refused, answered) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let guesser = |n: usize| {
        let (world, owners, guesses, checked) = (&world, &owners, &guesses, &checked);
        async move {
            for turn in 0.. {
                let (email, _) = &owners[turn % owners.len()];
                let from = format!("198.51.100.{n}");
                let answer = lockout::sign_in(world, turn % 2, &from, email, "wrong horse").await;
                guesses.set(guesses.get() + 1);
                checked.set(checked.get() + usize::from(answer.status == 401));
            }
        }
    };
    let attack = future::join_all((0..40).map(guesser));
    let measured = async {
        let until = Instant::now() + Duration::from_secs(10);
        for turn in 0.. {
            if Instant::now() >= until {
                return;
            }
            let (email, from) = &owners[turn % owners.len()];
            let answer = lockout::sign_in(&world, turn % 2, from, email, PASSWORD).await;
            answered.set(answered.get() + 1);
            refused.set(refused.get() + usize::from(answer.status != 200));
        }
    };
    tokio::select! { () = measured => {}, _ = attack => unreachable!() }
    println!(
        "{} guesses at 10 accounts, {} of them checked: {} of {} sign-ins of the owners were refused",
        guesses.get(),
        checked.get(),
        refused.get(),
        answered.get()
    );
    assert_eq!(refused.get(), 0);
}
