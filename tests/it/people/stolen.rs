//! A stolen refresh token: the thief is out once the theft is noticed, or once the
//! owner signs out, however fast the thief rotates.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future;
use roomgate::dev::Api;
use serde_json::{Value, json};

use super::signed_out::account;
use crate::client::Client;
use crate::stopwatch::Stopwatch;
use crate::world::{Person, World};

const PROMISED: Duration = Duration::from_secs(5);

fn api(world: &World, node: usize) -> Api {
    Api::new(&world.cluster().nodes()[node].url())
}

/// The next tokens, or none if the refresh token is refused.
async fn rotate(world: &World, node: usize, refresh: &Value) -> Option<(Person, Value)> {
    let answer =
        api(world, node).post("/v1/token/refresh", &json!({"refresh_token": refresh})).await.unwrap();
    if answer.status == 401 {
        return None;
    }
    assert_eq!(answer.status, 200, "{}", answer.text);
    let tokens = answer.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let person = Person { user: text(&tokens["user"]["id"]), token: text(&tokens["token"]) };
    Some((person, tokens["refresh_token"].clone()))
}

/// Nothing that the thief has is of use, on any node, within the promised time.
async fn is_out(world: &World, thief: &Person, refresh: &Value, session: &mut Client) {
    let since = Stopwatch::start();
    assert_eq!(session.ends().await, Some(4100));
    for node in 0..3 {
        while world.api_of(node, thief).get("/v1/me").await.unwrap().status != 401 {
            assert!(since.elapsed() < PROMISED, "the access token works on node {node}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(rotate(world, node, refresh).await.is_none(), "the refresh token works on node {node}");
    }
    assert!(since.elapsed() < PROMISED, "{:?}", since.elapsed());
}

#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// The owner shows the spent token again.
    Reuse,
    SignOut,
    SignOutEverywhere,
}

/// The thief rotates on all nodes in a loop, while the owner ends the sign-in.
pub async fn race(world: &World, ending: Ending) {
    let (owner, stolen) = account(world, 1).await.remove(0);
    let (mut thief, mut refresh) = rotate(world, 0, &stolen).await.unwrap();
    let mut session = world.client(1, &thief).await;
    let has_ended = AtomicBool::new(false);
    let rotates = async {
        for node in 0.. {
            match rotate(world, node % 3, &refresh).await {
                Some(next) => (thief, refresh) = next,
                None => break,
            }
            // A thief who is still in after the end stays in.
            if has_ended.load(Ordering::Relaxed) && rotate(world, 0, &refresh).await.is_some() {
                panic!("{ending:?}: the thief rotates after the end");
            }
        }
    };
    let ends = async {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..60))).await;
        let answer = match ending {
            Ending::Reuse => {
                assert!(rotate(world, 2, &stolen).await.is_none());
                return has_ended.store(true, Ordering::Relaxed);
            }
            Ending::SignOut => api(world, 2).post("/v1/signout", &json!({"refresh_token": stolen})).await,
            Ending::SignOutEverywhere => {
                world.api_of(2, &owner).send("POST".parse().unwrap(), "/v1/signout", None).await
            }
        };
        assert_eq!(answer.unwrap().status, 204);
        has_ended.store(true, Ordering::Relaxed);
    };
    future::join(rotates, ends).await;
    is_out(world, &thief, &refresh, &mut session).await;
}

#[tokio::test]
async fn a_thief_who_rotates_in_a_loop_survives_no_end_of_the_sign_in() {
    let world = World::shared();
    let endings = [Ending::Reuse, Ending::SignOut, Ending::SignOutEverywhere];
    future::join_all((0..12).map(|n| race(world, endings[n % 3]))).await;
}
