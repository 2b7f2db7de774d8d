//! Members over HTTP: given roles, removed, leaving, listed.

use std::time::Duration;

use roomgate::dev::{Answer, Options};
use serde_json::{Value, json};

use crate::stopwatch::Stopwatch;
use crate::world::{Person, World, now, refused};

struct Room<'a> {
    world: &'a World,
    id: u64,
}

impl<'a> Room<'a> {
    async fn of(world: &'a World, owner: &Person, rest: Value) -> Self {
        let mut wish = json!({"slug": format!("members-{:016x}", rand::random::<u64>()), "schema": "open"});
        rest.as_object().unwrap().iter().for_each(|(key, value)| wish[key] = value.clone());
        let made = world.api(owner).post("/v1/rooms", &wish).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        Self { world, id: made.json()["room"].as_u64().unwrap() }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/rooms/{}{rest}", self.id)
    }

    async fn give(&self, by: &Person, to: &str, role: &str) -> Answer {
        let body = json!({"role": role}).to_string();
        let path = self.path(&format!("/members/{to}"));
        self.world.api_of(0, by).send("PUT".parse().unwrap(), &path, Some(body)).await.unwrap()
    }

    async fn remove(&self, by: &Person, whom: &str) -> Answer {
        let path = self.path(&format!("/members/{whom}"));
        self.world.api_of(1, by).send("DELETE".parse().unwrap(), &path, None).await.unwrap()
    }

    async fn shapes(&self, by: &Person) -> Answer {
        self.world.api_of(2, by).get(&self.path("/shapes")).await.unwrap()
    }

    /// A door may rest on an answer that is a second old.
    async fn shuts_out(&self, person: &Person) {
        let since = Stopwatch::start();
        loop {
            let answer = self.shapes(person).await;
            if answer.status != 200 {
                return refused(&answer, 403, "forbidden");
            }
            assert!(since.elapsed() < Duration::from_secs(5), "{} is still in", person.user);
        }
    }

    async fn become_member(&self, person: &Person) -> Answer {
        let path = self.path("/members/me");
        self.world.api_of(0, person).send("PUT".parse().unwrap(), &path, Some("{}".to_owned())).await.unwrap()
    }

    /// Actor, action and target of each deed, in order.
    async fn notes(&self) -> Vec<(String, String, String)> {
        let shard = &self.world.primaries().await[self.world.shard_of(self.id).await];
        let notes = "SELECT actor, action, target FROM audit
                      WHERE target = $1 OR target LIKE $1 || ' %' ORDER BY at, id";
        let rows = shard.query(notes, &[&format!("room {}", self.id)]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }
}

#[tokio::test]
async fn owners_give_and_take_roles_and_every_deed_is_noted_once() {
    let world = World::shared();
    let [olga, eva, bob, eve] = ["olga", "eva", "bob", "eve"].map(|name| world.person(name));
    let room = Room::of(world, &olga, json!({"access": "invite"})).await;
    room.shuts_out(&bob).await;
    for role in ["viewer", "viewer", "editor"] {
        let given = room.give(&olga, &bob.user, role).await;
        assert_eq!(given.json(), json!({"room": room.id, "user": bob.user, "role": role}));
    }
    assert_eq!(room.shapes(&bob).await.status, 200);
    // An owner who was made one does all that the first one does.
    assert_eq!(room.give(&olga, &eva.user, "owner").await.status, 200);
    assert_eq!(room.remove(&eva, &bob.user).await.status, 204);
    assert_eq!(room.remove(&eva, &bob.user).await.status, 204, "again");
    room.shuts_out(&bob).await;
    // A server is nobody's member.
    let token = world.sign(&json!({"sub": "bot", "scope": "server", "exp": now() + 60}));
    let bot = Person { user: "bot".to_owned(), token };
    assert_eq!(room.give(&bot, &bob.user, "viewer").await.status, 200);
    assert_eq!(room.shapes(&bob).await.status, 200, "a new role ends a removal");

    for (by, whom) in [(&bob, &eve), (&eve, &bob), (&eve, &eve)] {
        refused(&room.give(by, &whom.user, "owner").await, 403, "forbidden");
    }
    refused(&room.remove(&bob, &eva.user).await, 403, "forbidden");
    refused(&room.give(&olga, "not%20a%20user", "viewer").await, 400, "bad_message");
    refused(&room.give(&olga, &bob.user, "king").await, 400, "bad_message");
    // The room is hers whoever else owns it.
    refused(&room.give(&eva, &olga.user, "viewer").await, 403, "forbidden");
    refused(&room.remove(&eva, &olga.user).await, 403, "forbidden");
    refused(&room.remove(&olga, "me").await, 403, "forbidden");
    assert_eq!(room.give(&eva, &olga.user, "owner").await.status, 200);

    let about = |user: &str| format!("room {} user {user}", room.id);
    let (to_bob, to_eva) = (about(&bob.user), about(&eva.user));
    let expected = [
        (olga.user.as_str(), "role.viewer", &to_bob),
        (&olga.user, "role.editor", &to_bob),
        (&olga.user, "role.owner", &to_eva),
        (&eva.user, "kick", &to_bob),
        ("bot", "role.viewer", &to_bob),
    ]
    .map(|(actor, action, target)| (actor.to_owned(), action.to_owned(), target.clone()));
    assert_eq!(room.notes().await, expected);
}

#[tokio::test]
async fn who_leaves_may_come_back_and_who_was_removed_does_not_by_leaving() {
    let world = World::shared();
    let [olga, bob] = ["olga", "bob"].map(|name| world.person(name));
    let public = Room::of(world, &olga, json!({"default_role": "viewer"})).await;
    assert_eq!(public.give(&olga, &bob.user, "editor").await.status, 200);
    for whom in ["me", &bob.user] {
        assert_eq!(public.remove(&bob, whom).await.status, 204);
    }
    assert_eq!(public.become_member(&bob).await.json()["role"], "viewer", "not what they were before");
    assert_eq!(public.remove(&olga, &bob.user).await.status, 204);
    assert_eq!(public.remove(&bob, "me").await.status, 204);
    public.shuts_out(&bob).await;
    refused(&public.become_member(&bob).await, 403, "forbidden");
    let actions: Vec<String> = public.notes().await.into_iter().map(|(_, action, _)| action).collect();
    assert_eq!(actions, ["role.editor", "leave", "kick"]);

    let invite = Room::of(world, &olga, json!({"access": "invite"})).await;
    assert_eq!(invite.give(&olga, &bob.user, "editor").await.status, 200);
    let mut client = world.client(1, &bob).await;
    client.join(invite.id).await;
    assert_eq!(invite.remove(&bob, "me").await.status, 204);
    invite.shuts_out(&bob).await;
    assert_eq!(client.ends().await, Some(4102), "this door is closed behind them");
}

#[tokio::test]
async fn members_are_listed_once_each_in_pages_to_who_may_read() {
    let world = World::shared();
    let [olga, eve] = ["m-olga", "eve"].map(|name| world.person(name));
    let room = Room::of(world, &olga, json!({"access": "invite"})).await;
    // Whoever got a room from somebody else may have a row as well.
    let shard = &world.primaries().await[world.shard_of(room.id).await];
    let row = "INSERT INTO room_member (room_id, user_id, role) VALUES ($1, $2, 'viewer')";
    shard.execute(row, &[&(room.id as i64), &olga.user]).await.unwrap();
    let mut expected = vec![(olga.user.clone(), "owner".to_owned())];
    for n in 0..12 {
        // Some come before the owner, some after.
        let user = format!("{}|{n:02}@x.test", if n % 2 == 0 { "a" } else { "z" });
        let role = if n % 3 == 0 { "viewer" } else { "editor" };
        assert_eq!(room.give(&olga, &user, role).await.status, 200);
        if n % 4 == 3 {
            assert_eq!(room.remove(&olga, &user).await.status, 204);
        } else {
            expected.push((user, role.to_owned()));
        }
    }
    expected.sort();
    for limit in [1, 4, 10, 11, 1000] {
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = room.path(&format!("/members?freshness=primary&limit={limit}{cursor}"));
            let page = world.api(&olga).get(&path).await.unwrap();
            assert!(page.headers.contains_key("roomgate-served-by"), "{}", page.text);
            let page = page.json();
            for item in page["items"].as_array().unwrap() {
                assert!(item["joined_at"].as_u64().is_some(), "{item}");
                let [user, role] = ["user", "role"].map(|field| item[field].as_str().unwrap().to_owned());
                listed.push((user, role));
            }
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={}", next.replace('|', "%7C"));
        }
        assert_eq!(listed, expected, "by {limit}");
    }
    refused(&world.api(&eve).get(&room.path("/members")).await.unwrap(), 403, "forbidden");
    for (rest, status, code) in
        [("?cursor=a%20b", 400, "bad_message"), ("?min_seq=1.99", 409, "ahead_of_log")]
    {
        refused(&world.api(&olga).get(&room.path(&format!("/members{rest}"))).await.unwrap(), status, code);
    }
}

/// Without the periodic check, the nodes tell each other.
#[tokio::test]
async fn a_kick_is_told_over_redis_at_once() {
    let world = World::start(|options| {
        let options = options.set("sessions.head_check_ms", 60_000);
        Options { nodes: 2, shards: 1, replicas: 0, ..options }
    })
    .await;
    // A node that has just started may not have found Redis yet.
    for node in 0..2 {
        while world.measured(node, "roomgate_bus_up").await != 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (olga, bob) = (world.person("olga"), world.person("bob"));
    let room = world.room(&olga, "open").await;
    let mut clients = [world.client(0, &bob).await, world.client(1, &bob).await];
    for client in &mut clients {
        client.join(room).await;
    }
    let path = format!("/v1/rooms/{room}/members/{}", bob.user);
    let removed = world.api_of(0, &olga).send("DELETE".parse().unwrap(), &path, None).await.unwrap();
    assert_eq!(removed.status, 204, "{}", removed.text);
    let told = Stopwatch::start();
    for client in &mut clients {
        assert_eq!(client.ends().await, Some(4102));
    }
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}
