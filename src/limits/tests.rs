use super::*;
use crate::protocol::Code;

fn limits(change: impl FnOnce(&mut config::Limits)) -> Limits {
    let mut configured = config::Limits::default();
    change(&mut configured);
    Limits::new(&configured)
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guess<'a>(from: &str, email: &'a str) -> Guess<'a> {
    Guess { email, from: address(from), device: None, is_known: false }
}

#[track_caller]
fn assert_limited(answer: Result<(), Refusal>) {
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code, Code::RateLimited);
    assert!(refusal.retry_after_ms.is_some_and(|ms| ms > 0));
}

#[test]
fn a_session_has_its_burst_and_then_its_rate() {
    let limits = limits(|l| (l.submits_per_second, l.submit_burst) = (1, 5));
    let mut session = limits.open_session(&user("alice")).unwrap();
    for _ in 0..5 {
        session.submit().unwrap();
    }
    assert_limited(session.submit());
    session.signal().unwrap();
    limits.open_session(&user("alice")).unwrap().submit().unwrap();
}

#[tokio::test]
async fn zero_means_no_limit() {
    let limits = limits(|l| {
        (l.submits_per_second, l.signals_per_second, l.sessions_per_user) = (0, 0, 0);
        (l.signins_per_minute, l.signups_per_minute, l.user_submits_per_minute) = (0, 0, 0);
        l.room_guesses_per_minute = 0;
    });
    let mut session = limits.open_session(&user("alice")).unwrap();
    for _ in 0..1000 {
        session.submit().unwrap();
        session.signal().unwrap();
        drop(limits.sign_in(guess("10.0.0.1", "a@example.test")).await.unwrap());
        limits.sign_up(address("10.0.0.1")).unwrap();
        limits.room_guess(RoomId::new(1).unwrap(), Some(address("10.0.0.1"))).await.unwrap();
        limits.user_submits(&user("alice"), NonZeroU32::new(1000).unwrap()).await.unwrap();
    }
}

#[test]
fn a_closed_session_makes_room_for_another() {
    let limits = limits(|l| l.sessions_per_user = 2);
    let first = limits.open_session(&user("alice")).unwrap();
    let _second = limits.open_session(&user("alice")).unwrap();
    assert_limited(limits.open_session(&user("alice")).map(drop));
    assert!(limits.open_session(&user("bob")).is_ok());
    drop(first);
    assert!(limits.open_session(&user("alice")).is_ok());
}

#[test]
fn addresses_of_one_ipv6_network_count_as_one() {
    let limits = limits(|l| l.signups_per_minute = 1);
    limits.sign_up(address("2001:db8::1")).unwrap();
    assert_limited(limits.sign_up(address("2001:db8::2")));
    limits.sign_up(address("2001:db8:0:1::1")).unwrap();
    limits.sign_up(address("::ffff:10.0.0.1")).unwrap();
    assert_limited(limits.sign_up(address("10.0.0.1")));
    assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::2")));
}

#[tokio::test]
async fn a_batch_larger_than_the_budget_is_refused_whole() {
    let limits = limits(|l| l.user_submits_per_minute = 100);
    assert_limited(limits.user_submits(&user("alice"), NonZeroU32::new(101).unwrap()).await);
    limits.user_submits(&user("alice"), NonZeroU32::new(100).unwrap()).await.unwrap();
    assert_limited(limits.user_submits(&user("alice"), ONE).await);
}

#[tokio::test]
async fn only_wrong_guesses_of_a_room_count() {
    let limits = limits(|l| l.room_guesses_per_minute = 3);
    let (room, other) = (RoomId::new(1).unwrap(), RoomId::new(2).unwrap());
    let from = |n: u8| Some(IpAddr::from([10, 0, 0, n]));
    for _ in 0..10 {
        limits.room_guess(room, from(1)).await.unwrap();
        limits.guessed(room, from(1)).await;
    }
    for n in 0..3 {
        limits.room_guess(room, from(n)).await.unwrap();
    }
    assert_limited(limits.room_guess(room, from(9)).await);
    assert_limited(limits.room_guess(room, None).await);
    for _ in 0..2 {
        limits.room_guess(other, from(1)).await.unwrap();
    }
    assert_limited(limits.room_guess(RoomId::new(3).unwrap(), from(1)).await);
}

#[tokio::test]
async fn a_reload_takes_effect_at_once_and_gives_no_other_budget_back() {
    let mut configured =
        config::Limits { signups_per_minute: 1, signins_per_minute: 1, ..config::Limits::default() };
    let limits = Limits::new(&configured);
    let here = address("10.0.0.1");
    limits.sign_up(here).unwrap();
    drop(limits.sign_in(guess("10.0.0.1", "a@x.test")).await.unwrap());
    configured.signups_per_minute = 0;
    limits.reload(&configured);
    limits.sign_up(here).unwrap();
    assert_limited(limits.sign_in(guess("10.0.0.1", "b@x.test")).await.map(drop));
}

#[test]
fn a_session_that_is_open_follows_a_reload() {
    let mut configured =
        config::Limits { submits_per_second: 1, submit_burst: 1, ..config::Limits::default() };
    configured.signals_per_second = 1;
    let limits = Limits::new(&configured);
    let mut session = limits.open_session(&user("alice")).unwrap();
    session.submit().unwrap();
    session.signal().unwrap();
    assert_limited(session.submit());
    configured.submit_burst = 3;
    limits.reload(&configured);
    for _ in 0..3 {
        session.submit().unwrap();
    }
    assert_limited(session.submit());
    assert_limited(session.signal());
}
