//! Invites: what they open, for whom, how often and until when.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use roomgate::dev::{Answer, Options, connect};
use serde_json::{Value, json};

use crate::world::{Person, World, now, refused};

struct Room<'a> {
    world: &'a World,
    id: u64,
    owner: Person,
}

impl<'a> Room<'a> {
    async fn by_invite(world: &'a World) -> Self {
        Self::with(world, json!({"access": "invite"})).await
    }

    async fn with(world: &'a World, mut wish: Value) -> Self {
        let owner = world.person("olga");
        wish["slug"] = format!("invites-{:016x}", rand::random::<u64>()).into();
        let made = world.api(&owner).post("/v1/rooms", &wish).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        Self { world, id: made.json()["room"].as_u64().unwrap(), owner }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/rooms/{}{rest}", self.id)
    }

    async fn invite(&self, wish: Value) -> Value {
        let made = self.world.api(&self.owner).post(&self.path("/invites"), &wish).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()
    }

    async fn send(&self, person: &Person, method: &str, rest: &str, body: Option<Value>) -> Answer {
        let node = rand::random_range(0..self.world.cluster().nodes().len());
        let body = body.map(|body| body.to_string());
        let api = self.world.api_of(node, person);
        api.send(method.parse().unwrap(), &self.path(rest), body).await.unwrap()
    }

    async fn shows(&self, person: &Person, code: &Value) -> Answer {
        self.send(person, "PUT", "/members/me", Some(json!({"invite": code}))).await
    }

    async fn role(&self, person: &Person, code: &Value) -> String {
        let answer = self.shows(person, code).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["role"].as_str().unwrap().to_owned()
    }

    async fn listed(&self) -> Vec<Value> {
        let list = self.send(&self.owner, "GET", "/invites", None).await.json();
        list["items"].as_array().unwrap().clone()
    }

    async fn uses(&self, invite: &Value) -> u64 {
        let listed = self.listed().await;
        listed.iter().find(|item| item["id"] == invite["id"]).unwrap()["uses"].as_u64().unwrap()
    }

    async fn sql(&self, text: &str) {
        let shard = &self.world.primaries().await[self.world.shard_of(self.id).await];
        shard.batch_execute(&text.replace("{room}", &self.id.to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn a_right_invite_makes_a_member_by_http_and_by_join_as_often_as_it_says() {
    let world = World::shared();
    let [bob, carol, dave] = ["bob", "carol", "dave"].map(|name| world.person(name));
    let room = Room::by_invite(world).await;
    let until = (now() + 3600) * 1000;
    let invite = room.invite(json!({"role": "viewer", "expires_at": until, "max_uses": 2})).await;
    let fields: BTreeSet<&str> = invite.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["code", "expires_at", "id", "max_uses", "role"].into());
    assert_eq!((&invite["expires_at"], &invite["max_uses"]), (&json!(until), &json!(2)));
    let code = &invite["code"];
    refused(&room.send(&bob, "PUT", "/members/me", Some(json!({}))).await, 403, "forbidden");
    assert_eq!(room.role(&bob, code).await, "viewer");
    assert_eq!(room.role(&bob, code).await, "viewer", "again, and no use more");
    let mut client = world.client(1, &carol).await;
    let joined = client.ask(&json!({"type": "join", "room": room.id, "invite": code}), "joined").await;
    assert_eq!(joined["role"], "viewer");
    assert_eq!(room.uses(&invite).await, 2);
    let mut late = world.client(2, &dave).await;
    let error = late.refused(&json!({"type": "join", "room": room.id, "invite": code}).to_string()).await;
    assert_eq!(error["code"], "forbidden", "{error}");
    // Members need it no more, and lose nothing by it.
    for person in [&bob, &carol] {
        assert_eq!(room.role(person, code).await, "viewer");
        assert_eq!(room.send(person, "PUT", "/members/me", None).await.status, 200);
    }
    let listed = room.listed().await;
    assert_eq!((listed.len(), &listed[0]["uses"], &listed[0]["revoked"]), (1, &json!(2), &json!(false)));
    assert_eq!(listed[0]["created_by"], room.owner.user.as_str());
    assert!(listed[0]["code"].is_null(), "{}", listed[0]);
}

#[tokio::test]
async fn wrong_expired_revoked_and_used_up_invites_are_refused_alike() {
    let world = World::shared();
    let room = Room::by_invite(world).await;
    let [expired, revoked, used] = [json!({}), json!({}), json!({"max_uses": 1})].map(|mut wish| {
        wish["role"] = "editor".into();
        wish
    });
    let [expired, revoked, used] =
        [room.invite(expired).await, room.invite(revoked).await, room.invite(used).await];
    let other = Room::by_invite(world).await.invite(json!({"role": "editor"})).await;
    room.sql(&format!("UPDATE room_invite SET expires_at = now() WHERE id = {}", expired["id"])).await;
    let revoke = format!("/invites/{}", revoked["id"]);
    for _ in 0..2 {
        assert_eq!(room.send(&room.owner, "DELETE", &revoke, None).await.status, 204);
    }
    assert_eq!(room.role(&world.person("first"), &used["code"]).await, "editor");
    let mut told = BTreeSet::new();
    for code in
        [&expired["code"], &revoked["code"], &used["code"], &other["code"], &json!("made-up"), &json!("")]
    {
        let answer = room.shows(&world.person("bob"), code).await;
        refused(&answer, 403, "forbidden");
        told.insert(answer.json()["error"]["message"].to_string());
    }
    assert_eq!(told.len(), 1, "{told:?}");
    refused(&room.send(&room.owner, "DELETE", "/invites/77", None).await, 404, "not_found");
    refused(&room.send(&room.owner, "DELETE", "/invites/x", None).await, 404, "not_found");
    let past = (now() - 1) * 1000;
    for wish in [
        json!({}),
        json!({"role": "king"}),
        json!({"role": "viewer", "max_uses": 0}),
        json!({"role": "viewer", "max_uses": -1}),
        json!({"role": "viewer", "max_uses": 3_000_000_000_u64}),
        json!({"role": "viewer", "expires_at": past}),
        json!({"role": "viewer", "expires_at": 9_000_000_000_000_000_i64}),
        json!({"role": "viewer", "expires_at": 1.5}),
    ] {
        refused(&room.send(&room.owner, "POST", "/invites", Some(wish)).await, 400, "bad_message");
    }
    let editor = world.person("editor");
    let invite = room.invite(json!({"role": "editor"})).await;
    assert_eq!(room.role(&editor, &invite["code"]).await, "editor");
    for person in [&editor, &world.person("stranger")] {
        let wish = Some(json!({"role": "owner"}));
        refused(&room.send(person, "POST", "/invites", wish).await, 403, "forbidden");
        refused(&room.send(person, "GET", "/invites", None).await, 403, "forbidden");
        refused(&room.send(person, "DELETE", &revoke, None).await, 403, "forbidden");
    }
}

#[tokio::test]
async fn what_an_owner_decided_later_stands_against_an_older_invite_and_nobody_loses_by_one() {
    let world = World::shared();
    let room = Room::by_invite(world).await;
    let [bob, gus, eva] = ["bob", "gus", "eva"].map(|name| world.person(name));
    let decide = async |person: &Person, role: &str| {
        let (path, role) = (format!("/members/{}", person.user), Some(json!({"role": role})));
        assert_eq!(room.send(&room.owner, "PUT", &path, role).await.status, 200);
    };
    let [viewer, editor] = [json!({"role": "viewer"}), json!({"role": "editor"})];
    let old = room.invite(editor.clone()).await;
    assert_eq!(room.role(&bob, &old["code"]).await, "editor");
    let path = format!("/members/{}", bob.user);
    assert_eq!(room.send(&room.owner, "DELETE", &path, None).await.status, 204);
    refused(&room.shows(&bob, &old["code"]).await, 403, "forbidden");
    let new = room.invite(viewer.clone()).await;
    assert_eq!(room.role(&bob, &new["code"]).await, "viewer");
    assert_eq!(room.role(&bob, &old["code"]).await, "viewer", "still the older one");

    decide(&gus, "viewer").await;
    assert_eq!(room.role(&gus, &old["code"]).await, "viewer");
    let newer = room.invite(editor.clone()).await;
    assert_eq!(room.role(&gus, &newer["code"]).await, "editor", "more than they were");
    assert_eq!(room.role(&gus, &new["code"]).await, "editor", "not less than they are");
    decide(&eva, "owner").await;
    assert_eq!(room.role(&eva, &newer["code"]).await, "owner");
    assert_eq!(room.role(&room.owner, &newer["code"]).await, "owner");
    let mut uses = Vec::new();
    for invite in [&old, &new, &newer] {
        uses.push(room.uses(invite).await);
    }
    assert_eq!(uses, [1, 1, 1], "once for each whom it made anything");

    // In an open room it makes more of people than they are without.
    let public = Room::with(world, json!({"default_role": "viewer"})).await;
    let invite = public.invite(editor).await;
    assert_eq!(public.role(&bob, &invite["code"]).await, "editor");
    assert_eq!(public.role(&gus, &json!("made-up")).await, "viewer", "it is open all the same");
    let password = Room::with(world, json!({"password": "open sesame"})).await;
    let invite = password.invite(viewer).await;
    assert_eq!(password.role(&bob, &invite["code"]).await, "viewer");
    let both = Some(json!({"invite": "made-up", "password": "open sesame"}));
    assert_eq!(password.send(&gus, "PUT", "/members/me", both).await.status, 200);
}

#[tokio::test]
async fn an_invite_lets_no_more_in_than_it_says_however_many_come_at_once() {
    let world = World::shared();
    let room = Room::by_invite(world).await;
    let invite = room.invite(json!({"role": "editor", "max_uses": 5})).await;
    let people: Vec<Person> = (0..12).map(|n| world.person(&format!("p{n}"))).collect();
    let answers = join_all(people.iter().map(|person| room.shows(person, &invite["code"]))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    assert_eq!(room.uses(&invite).await, 5);

    let invite = room.invite(json!({"role": "editor", "max_uses": 5})).await;
    let bob = world.person("bob");
    let answers = join_all((0..12).map(|_| room.shows(&bob, &invite["code"]))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(room.uses(&invite).await, 1);
}

#[tokio::test]
async fn a_repeat_gets_the_same_code_and_no_table_holds_one() {
    let world = World::shared();
    let room = Room::by_invite(world).await;
    let wish = json!({"role": "viewer"});
    let make = async |node: usize, wish: &Value| {
        let api = world.api_of(node, &room.owner).with("Idempotency-Key", "one");
        api.post(&room.path("/invites"), wish).await.unwrap()
    };
    let first = make(0, &wish).await;
    assert_eq!(first.status, 201, "{}", first.text);
    let at_once = join_all((0..6).map(|n| make(n % 3, &wish))).await;
    assert!(at_once.iter().all(|answer| (answer.status, &answer.text) == (first.status, &first.text)));
    let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
    // Whoever answered it first died before it noted that.
    let forget = "UPDATE directory.idempotency SET status = NULL, answer = NULL,
                         tried_at = now() - interval '1 minute' WHERE user_id = $1";
    directory.execute(forget, &[&room.owner.user]).await.unwrap();
    assert_eq!(make(1, &wish).await.text, first.text);
    refused(&make(1, &json!({"role": "owner"})).await, 409, "idempotency_mismatch");
    assert_eq!(room.listed().await.len(), 1);
    assert_ne!(room.invite(wish.clone()).await["code"], first.json()["code"]);

    let code = first.json()["code"].as_str().unwrap().to_owned();
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                   WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    for admin in world.primaries().await {
        for table in admin.query(tables, &[]).await.unwrap() {
            let table: String = table.get(0);
            let search = format!("SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%' || $1 || '%'");
            let rows: i64 = admin.query_one(&search, &[&code]).await.unwrap().get(0);
            assert_eq!(rows, 0, "{table}");
        }
    }
}

#[tokio::test]
async fn invites_are_swept_out_a_day_after_their_end() {
    let world = World::start(|options| {
        let options = options.set("jobs.janitor_interval_ms", 100);
        Options { nodes: 2, shards: 2, replicas: 0, ..options }
    })
    .await;
    let room = Room::by_invite(&world).await;
    for max_uses in 1..=3 {
        room.invite(json!({"role": "viewer", "max_uses": max_uses})).await;
    }
    room.sql(
        "UPDATE room_invite SET revoked = max_uses = 1,
                expires_at = now() - CASE max_uses WHEN 3 THEN interval '23 hours' ELSE interval '25 hours' END
          WHERE room_id = {room} AND max_uses > 1",
    )
    .await;
    room.sql("UPDATE room_invite SET expires_at = now() - interval '2 days' WHERE room_id = {room} AND max_uses = 1")
        .await;
    let swept = async {
        loop {
            let left: Vec<Value> = room.listed().await.iter().map(|item| item["max_uses"].clone()).collect();
            if left.len() == 1 {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let left = tokio::time::timeout(Duration::from_secs(60), swept).await.expect("the janitor sweeps");
    assert_eq!(left, [json!(3)]);
}
