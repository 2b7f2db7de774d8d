//! Accounts, refresh tokens and slugs in the directory.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use roomgate::auth::{RefreshToken, email_forms};
use roomgate::digests::PasswordHash;
use roomgate::directory::{DirectoryError, NewAccount};
use roomgate::ids::{RoomId, Slug};
use roomgate::protocol::Code;
use roomgate::store::rooms::NewRoom;

use super::world::{World, new_room, user};

const HOUR: Duration = Duration::from_secs(3600);

const NAME: &str = "Ann\r\n\u{1b}[31m'; DROP TABLE account; --";

fn account(id: &str, email: &str) -> NewAccount {
    NewAccount {
        id: user(id),
        email: email.to_owned(),
        email_forms: email_forms(email),
        name: NAME.to_owned(),
        password: PasswordHash::new("$argon2id$1".to_owned()),
    }
}

#[tokio::test]
async fn an_email_opens_one_account_whatever_its_case() {
    let world = World::start().await;
    let directory = &world.directory;
    let ann = directory.create_account(&account("ann", "Ann@Example.test")).await.unwrap();
    assert_eq!((ann.name.as_str(), ann.photo), (NAME, None));
    // A repeat of the very same statement, whose first answer was lost.
    assert!(directory.create_account(&account("ann", "Ann@Example.test")).await.is_ok());
    let taken = directory.create_account(&account("eve", "aNN@example.TEST")).await;
    assert!(matches!(taken, Err(DirectoryError::EmailTaken)), "{taken:?}");
    let found = directory.credentials("ANN@EXAMPLE.TEST", &[]).await.unwrap().unwrap();
    assert_eq!((found.account.id, found.account.email.as_str()), (user("ann"), "Ann@Example.test"));
    assert_eq!(found.password.as_str(), "$argon2id$1");
    assert!(directory.credentials("' OR true --", &email_forms("x")).await.unwrap().is_none());
    assert!(directory.account(&user("eve")).await.unwrap().is_none());
    assert_eq!(world.count("directory.account").await, 1);
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_family() {
    let world = World::start().await;
    let directory = &world.directory;
    directory.create_account(&account("ann", "a@x.test")).await.unwrap();
    let [first, second, third, other] = std::array::from_fn(|_| RefreshToken::random());
    directory.add_refresh_token(first.digest(), &user("ann"), HOUR).await.unwrap();
    directory.add_refresh_token(other.digest(), &user("ann"), HOUR).await.unwrap();

    let rotate = async |old: &RefreshToken, new: &RefreshToken| {
        directory.rotate_refresh_token(old.digest(), new.digest(), HOUR).await
    };
    assert_eq!(rotate(&first, &second).await.unwrap().0, user("ann"));
    // The same rotation again: its first answer was lost.
    assert_eq!(rotate(&first, &second).await.unwrap().0, user("ann"));
    let reused = rotate(&first, &third).await.unwrap_err();
    assert_eq!(reused.refusal().code, Code::Unauthenticated);
    assert!(rotate(&second, &third).await.is_err(), "the thief's or the victim's, it has ended");
    assert!(rotate(&other, &third).await.is_ok(), "the other device goes on");
}

#[tokio::test]
async fn of_two_rotations_at_once_one_wins() {
    let world = World::start().await;
    world.directory.create_account(&account("ann", "a@x.test")).await.unwrap();
    let token = RefreshToken::random();
    world.directory.add_refresh_token(token.digest(), &user("ann"), HOUR).await.unwrap();
    let rotations = (0..8).map(|_| async {
        let new = RefreshToken::random();
        world.directory.rotate_refresh_token(token.digest(), new.digest(), HOUR).await
    });
    let won = join_all(rotations).await.iter().filter(|rotated| rotated.is_ok()).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn expired_and_revoked_refresh_tokens_are_refused() {
    let world = World::start().await;
    let directory = &world.directory;
    directory.create_account(&account("ann", "a@x.test")).await.unwrap();
    let [expired, revoked, all] = std::array::from_fn(|_| RefreshToken::random());
    directory.add_refresh_token(expired.digest(), &user("ann"), Duration::ZERO).await.unwrap();
    directory.add_refresh_token(revoked.digest(), &user("ann"), HOUR).await.unwrap();
    directory.add_refresh_token(all.digest(), &user("ann"), HOUR).await.unwrap();
    directory.end_login(revoked.digest()).await.unwrap();
    directory.end_login(RefreshToken::random().digest()).await.unwrap();
    for token in [&expired, &revoked] {
        let new = RefreshToken::random();
        assert!(directory.rotate_refresh_token(token.digest(), new.digest(), HOUR).await.is_err());
    }
    directory.end_logins_of(&user("ann")).await.unwrap();
    let new = RefreshToken::random();
    assert!(directory.rotate_refresh_token(all.digest(), new.digest(), HOUR).await.is_err());
    assert_eq!(world.count("directory.sign_in WHERE ended_at IS NULL AND expires_at > now()").await, 0);
}

#[tokio::test]
async fn a_slug_has_one_room_and_its_owner_may_continue_creating_it() {
    let world = World::start().await;
    let directory = &world.directory;
    let (ann, eve) = (new_room(&user("ann")), new_room(&user("eve")));
    let slug = &ann.slug;
    let again = |new: &NewRoom| NewRoom { room: RoomId::random(), slug: slug.clone(), ..new.clone() };
    assert_eq!(directory.reserve_room(&ann, 0).await.unwrap(), ann.room);
    assert_eq!(directory.room_by_slug(slug, &world.rooms).await.unwrap(), None, "not before it is there");
    assert_eq!(directory.reserve_room(&again(&ann), 0).await.unwrap(), ann.room);
    let stolen = directory.reserve_room(&again(&eve), 0).await;
    assert!(matches!(stolen, Err(DirectoryError::SlugTaken)));

    directory.activate_slug(slug, ann.room).await.unwrap();
    let late = directory.reserve_room(&again(&ann), 0).await;
    assert!(matches!(late, Err(DirectoryError::SlugTaken)));
    // A repeat of the very same reservation, whose first answer was lost.
    assert_eq!(directory.reserve_room(&ann, 0).await.unwrap(), ann.room);
    assert_eq!(directory.room_by_slug(slug, &world.rooms).await.unwrap(), Some(ann.room));
    assert_eq!(world.count("directory.slug WHERE plan IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_known_slug_outlasts_the_directory_and_others_wait_only_so_long() {
    let world = World::start().await;
    let (known, unknown) = (Slug::new("known").unwrap(), Slug::new("unknown").unwrap());
    world
        .sql("INSERT INTO directory.slug (slug, room_id, owner, state) VALUES ('known', 7, 'ann', 'active')")
        .await;
    // Many at once, one query.
    let many = (0..200).map(|_| world.directory.room_by_slug(&known, &world.rooms));
    assert!(join_all(many).await.iter().all(|room| room.as_ref().is_ok_and(|id| id.is_some())));

    world.server.service().kill().await;
    let room = world.directory.room_by_slug(&known, &world.rooms).await.unwrap();
    assert_eq!(room, Some(RoomId::new(7).unwrap()));
    let mut asked = Instant::now();
    // A backend may outlive its postmaster by a moment, and answer.
    let refusal = loop {
        match world.directory.room_by_slug(&unknown, &world.rooms).await {
            Ok(room) => assert_eq!(room, None),
            Err(error) => break error.refusal(),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        asked = Instant::now();
    };
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(refusal.retry_after_ms.is_some());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_slug_that_a_failover_gave_to_another_room_is_found_out_and_an_outage_changes_nothing() {
    let world = World::start().await;
    let trusting = |time| world.directory.clone().trusting_slugs_for(time);
    let slug = Slug::new("ours").unwrap();
    let gets = async |room: u64| {
        let put = format!(
            "INSERT INTO directory.slug (slug, room_id, owner, state) VALUES ('ours', {room}, 'ann', 'active')
                 ON CONFLICT (slug) DO UPDATE SET room_id = excluded.room_id"
        );
        world.sql(&put).await;
    };
    let found = async |time| trusting(time).room_by_slug(&slug, &world.rooms).await.unwrap().map(RoomId::get);
    let (long, short) = (HOUR, Duration::ZERO);
    assert_eq!(found(short).await, None);
    gets(7).await;
    assert_eq!(found(long).await, Some(7));
    gets(8).await;
    assert_eq!(found(long).await, Some(7), "it isn't asked again at once");
    let many = (0..100).map(|_| found(short));
    assert!(join_all(many).await.iter().all(|room| *room == Some(8)));
    world.sql("DELETE FROM directory.slug").await;
    assert_eq!(found(long).await, Some(8));
    world.server.service().kill().await;
    let asked = Instant::now();
    for _ in 0..10 {
        assert_eq!(found(short).await, Some(8), "nobody can say otherwise");
    }
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_lost_connection_is_not_an_error_to_the_caller() {
    let world = World::start().await;
    world.directory.create_account(&account("ann", "a@x.test")).await.unwrap();
    for n in 0..5 {
        world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'roomgate'").await;
        let made = world.directory.create_account(&account(&format!("u{n}"), &format!("u{n}@x.test"))).await;
        assert!(made.is_ok(), "{made:?}");
    }
}
