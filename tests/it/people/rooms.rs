//! Rooms and members on a shard.

use std::time::{Duration, Instant};

use roomgate::db::Class;
use roomgate::digests::PasswordHash;
use roomgate::ids::RoomId;
use roomgate::log::Authority;
use roomgate::placement::slot_of;
use roomgate::position::{Epoch, Position, Seq};
use roomgate::protocol::{Access, Code, Refusal, Role};
use roomgate::routing::Freshness;
use roomgate::store::rooms::{Actor, Key, List, ListCursor, RoomsError, STATEMENTS, Visits, Wanted};
use roomgate::store::slots::SLOT_LOCKS;

use super::world::{World, new_room, soon, user};

#[tokio::test]
async fn a_room_comes_back_as_it_was_made_and_making_it_twice_is_once() {
    let world = World::start().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let new = world.room(&ann).await;
    world.rooms.insert(&new, soon()).await.unwrap();
    let found = world.find(new.room, &bob).await.unwrap();
    assert_eq!((&found.facts.slug, &*found.facts.name), (&new.slug, new.name.as_str()));
    assert_eq!((found.facts.access, found.facts.head), (Access::Password, Position::BEGINNING));
    assert_eq!(&*found.facts.metadata, r#"{"n": 1.5, "team": "blue"}"#);
    assert_eq!(found.facts.role_of(&ann, found.membership), Some(Role::Owner));
    assert_eq!(found.facts.role_of(&bob, found.membership), None);
    assert_eq!((world.count("room").await, world.count("room_head").await), (1, 1));
    let unknown = world.find(RoomId::random(), &bob).await;
    assert!(matches!(unknown, Err(RoomsError::Unknown)), "{unknown:?}");
}

#[tokio::test]
async fn who_comes_in_is_judged_by_what_the_rows_say_and_members_keep_their_role() {
    let world = World::start().await;
    let [ann, bob, eve, gus] = ["ann", "bob", "eve", "gus"].map(user);
    let new = world.room(&ann).await;
    let (room, hash) = (new.room, new.password.unwrap());
    let admit = async |user, key| {
        let admitted = world.rooms.admit(room, user, key, soon()).await;
        admitted.map(|admitted| admitted.role).map_err(|error| Refusal::from(error).code)
    };
    let revision = async || world.find(room, &ann).await.unwrap().facts.access_rev;
    let (known, other) = (Key::Password(&hash), PasswordHash::new("$argon2id$another".to_owned()));
    // It was the password when the door was looked at; it isn't any more.
    assert_eq!(admit(&bob, Key::Password(&other)).await, Err(Code::BadPassword));
    assert_eq!(admit(&bob, Key::Nothing).await, Err(Code::PasswordRequired));
    let before = revision().await;
    assert_eq!(admit(&bob, known).await, Ok(Role::Editor));
    assert!(revision().await > before, "nodes are told to look again");
    assert_eq!(admit(&ann, Key::Nothing).await, Ok(Role::Owner));
    let owner = Actor { user: &ann, authority: Authority::Member };
    world.rooms.set_role(room, owner, &bob, Role::Viewer, soon()).await.unwrap();
    world.rooms.remove(room, owner, &eve, soon()).await.unwrap();
    let before = revision().await;
    for key in [known, Key::Nothing] {
        assert_eq!(admit(&bob, key).await, Ok(Role::Viewer));
        assert_eq!(admit(&eve, key).await, Err(Code::Forbidden));
    }
    assert_eq!(revision().await, before, "nothing changed");
    let close = "UPDATE room SET access = 'invite', password_hash = null";
    world.sql(close).await;
    assert_eq!(admit(&gus, known).await, Err(Code::Forbidden));
    assert_eq!(admit(&bob, Key::Nothing).await, Ok(Role::Viewer));
    world.sql("UPDATE room SET archived_at = now()").await;
    for user in [&ann, &bob, &gus] {
        assert_eq!(admit(user, Key::Nothing).await, Err(Code::RoomArchived));
    }
    assert_eq!(world.count("room_member").await, 2);
    let nowhere = world.rooms.admit(RoomId::random(), &bob, Key::Nothing, soon()).await;
    assert!(matches!(nowhere, Err(RoomsError::Unknown)), "{nowhere:?}");
}

#[tokio::test]
async fn nothing_is_written_to_a_slot_that_moved_away_while_its_lock_was_waited_for() {
    let world = World::start().await;
    let new = new_room(&user("ann"));
    let slot = slot_of(new.room);
    let fence = world.server.admin().await.unwrap();
    fence.batch_execute("BEGIN").await.unwrap();
    fence
        .execute("SELECT pg_advisory_xact_lock($1, $2)::text", &[&SLOT_LOCKS, &i32::from(slot.0)])
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(3);
    let (written, ()) = futures_util::future::join(world.rooms.insert(&new, deadline), async {
        world.waits_for_lock().await;
        let moved = "UPDATE slot_owner SET state = 'moved', moved_to = 'b' WHERE slot = $1";
        fence.execute(moved, &[&i32::from(slot.0)]).await.unwrap();
        fence.batch_execute("COMMIT").await.unwrap();
    })
    .await;
    assert!(matches!(written, Err(RoomsError::NoOwner)), "{written:?}");
    assert_eq!(world.count("room").await, 0);
    let read = world.find(new.room, &user("ann")).await;
    assert!(read.is_err(), "{read:?}");
}

/// And not of the deadline, which cuts the last of several attempts off.
#[tokio::test]
async fn who_waits_for_a_slots_lock_until_the_end_is_told_of_the_lock() {
    let world = World::start().await;
    let new = new_room(&user("ann"));
    let (fence, slot) = (world.server.admin().await.unwrap(), i32::from(slot_of(new.room).0));
    fence.execute("SELECT pg_advisory_lock($1, $2)::text", &[&SLOT_LOCKS, &slot]).await.unwrap();
    let written = world.rooms.insert(&new, Instant::now() + Duration::from_secs(3)).await;
    let is_told = |error: &RoomsError| matches!(error, RoomsError::Database(error) if error.class() == Class::LockTimeout);
    assert!(written.as_ref().is_err_and(is_told), "{written:?}");
    assert_eq!(world.count("room").await, 0);
}

#[tokio::test]
async fn nothing_is_written_to_a_primary_that_is_not_the_claimed_one() {
    let world = World::start().await;
    world.sql("UPDATE shard_claim SET timeline = 9").await;
    let deadline = Instant::now() + Duration::from_secs(3);
    let written = world.rooms.insert(&new_room(&user("ann")), deadline).await;
    assert!(matches!(written, Err(RoomsError::NotClaimed)), "{written:?}");
    assert_eq!(world.count("room").await, 0);
}

#[tokio::test]
async fn in_sync_nothing_is_written_where_no_standby_is_waited_for() {
    let world = World::start().await;
    let (new, deadline) = (new_room(&user("ann")), Instant::now() + Duration::from_secs(3));
    let written = world.in_sync.insert(&new, deadline).await;
    assert!(matches!(written, Err(RoomsError::NoStandby)), "{written:?}");
    assert_eq!(world.count("room").await, 0);
    world.rooms.insert(&new, soon()).await.unwrap();
}

#[tokio::test]
async fn a_position_that_is_not_in_the_log_is_named() {
    let world = World::start().await;
    let ann = user("ann");
    let room = world.room(&ann).await.room;
    world
        .sql(&format!(
            "INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
             SELECT {room}, n, 7, 'op' || n, 'ann', 'message', '{{}}', '', now() FROM generate_series(1, 3) AS n;
             UPDATE room_head SET head_seq = 3, head_epoch = 7"
        ))
        .await;
    let at = async |epoch, seq| {
        let freshness = Freshness::AtLeast(Position::new(Epoch(epoch), Seq(seq)));
        world.rooms.find(Wanted { room, user: Some(&ann), freshness, deadline: soon() }).await
    };
    assert_eq!(at(7, 3).await.unwrap().facts.head, Position::new(Epoch(7), Seq(3)));
    assert!(at(7, 2).await.is_ok() && at(0, 0).await.is_ok());
    assert!(matches!(at(6, 2).await, Err(RoomsError::PositionLost)));
    assert!(matches!(at(7, 4).await, Err(RoomsError::AheadOfLog)));
    assert!(matches!(at(7, u64::MAX).await, Err(RoomsError::AheadOfLog)));
}

#[tokio::test]
async fn a_persons_rooms_are_listed_once_each_in_pages() {
    let world = World::start().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let mut expected = Vec::new();
    for n in 0..12 {
        let owner = if n % 2 == 0 { &ann } else { &bob };
        let room = world.room(owner).await.room;
        if n % 3 == 0 {
            let row = "INSERT INTO room_member (room_id, user_id, role) VALUES";
            world.sql(&format!("{row} ({room}, 'ann', 'viewer')")).await;
        }
        if n % 2 == 0 || n % 3 == 0 {
            expected.push(room);
        }
    }
    let removed = world.room(&bob).await.room;
    world
        .sql(&format!(
            "INSERT INTO room_member (room_id, user_id, role) VALUES ({removed}, 'ann', 'removed')"
        ))
        .await;
    expected.sort();
    for limit in [1, 3, 100] {
        let (mut listed, mut cursor) = (Vec::new(), ListCursor::default());
        let list =
            List { user: &ann, limit, freshness: Freshness::Primary, patience: Duration::from_secs(10) };
        loop {
            let page = world.rooms.of_user(list, &cursor).await.unwrap();
            assert!(page.rooms.len() <= limit);
            listed.extend(page.rooms.iter().map(|facts| facts.room));
            assert!(page.incomplete.is_empty());
            let Some(next) = page.next else { break };
            cursor = next;
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
}

#[tokio::test]
async fn rights_are_what_the_door_would_say_of_each_person_now() {
    let world = World::start().await;
    let [ann, bob, eve, zoe] = ["ann", "bob", "eve", "zoe"].map(user);
    let room = world.room(&ann).await.room;
    world.add_member(room, &bob, Role::Viewer).await;
    world
        .sql(&format!("INSERT INTO room_member (room_id, user_id, role) VALUES ({room}, 'eve', 'removed')"))
        .await;
    let rights = async || {
        let users = [eve.clone(), zoe.clone(), bob.clone(), ann.clone()];
        let rights = world.rooms.rights(room, &users, soon()).await.unwrap();
        let revision = world.find(room, &ann).await.unwrap().facts.access_rev;
        assert_eq!((rights.access_rev, rights.roles.len()), (revision, 4));
        users.map(|user| rights.roles[&user])
    };
    assert_eq!(rights().await, [None, None, Some(Role::Viewer), Some(Role::Owner)]);
    world.sql(&format!("UPDATE room SET access = 'public', password_hash = NULL WHERE id = {room}")).await;
    assert_eq!(rights().await, [None, Some(Role::Editor), Some(Role::Viewer), Some(Role::Owner)]);
    let nowhere = world.rooms.rights(RoomId::random(), &[bob], soon()).await;
    assert!(matches!(nowhere, Err(RoomsError::Unknown)), "{nowhere:?}");
}

#[tokio::test]
async fn who_may_be_in_a_room_is_read_by_keys() {
    let world = World::start().await;
    world
        .sql(
            "INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
               SELECT id, 1, 'room-' || id, 'r', 'ann', 'public', 'editor', 'open' FROM generate_series(1, 2000) AS id;
             INSERT INTO room_head (room_id) SELECT id FROM room;
             INSERT INTO room_member (room_id, user_id, role)
               SELECT room, 'u' || n, 'editor' FROM generate_series(1, 2000) AS room, generate_series(1, 50) AS n;
             INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
               SELECT room, seq, 7, 'op' || seq, 'u', 'message', '{}', '\\x00', now()
               FROM generate_series(1, 2000) AS room, generate_series(1, 20) AS seq;
             ANALYZE;
             SET plan_cache_mode = force_generic_plan",
        )
        .await;
    for sql in STATEMENTS.iter().filter(|sql| ["room_facts", "room_rights"].contains(&sql.name)) {
        let parameters = world.admin.prepare(sql.text).await.unwrap().params().len();
        let nulls = vec!["NULL"; parameters].join(", ");
        world.sql(&format!("PREPARE checked AS {}", sql.text)).await;
        let plan = world.admin.query(&format!("EXPLAIN EXECUTE checked({nulls})"), &[]).await.unwrap();
        let plan = plan.iter().map(|row| row.get(0)).collect::<Vec<String>>().join("\n");
        world.sql("DEALLOCATE checked").await;
        assert!(!plan.contains("Seq Scan") && !plan.contains("Hash"), "{}:\n{plan}", sql.name);
    }
}

#[tokio::test]
async fn visits_are_counted_without_waiting_for_a_locked_room() {
    let world = World::start().await;
    let (busy, idle) = (world.room(&user("ann")).await.room, world.room(&user("ann")).await.room);
    let visits = Visits::new(world.rooms.clone());
    for _ in 0..100 {
        visits.add(busy);
        visits.add(idle);
    }
    let counted = async |room| world.find(room, &user("ann")).await.unwrap().facts.visits;
    let append = world.server.admin().await.unwrap();
    append.batch_execute("BEGIN").await.unwrap();
    append
        .execute("SELECT FROM room_head WHERE room_id = $1 FOR NO KEY UPDATE", &[&busy.as_i64()])
        .await
        .unwrap();
    visits.write().await;
    assert_eq!((counted(busy).await, counted(idle).await), (0, 100));
    append.batch_execute("COMMIT").await.unwrap();
    visits.add(busy);
    visits.write().await;
    visits.write().await;
    assert_eq!((counted(busy).await, counted(idle).await), (101, 100));
}

impl World {
    /// Until the gateway's connection waits for an advisory lock.
    async fn waits_for_lock(&self) {
        let waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        while self.admin.query_opt(waiting, &[]).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    }
}
