//! People without a right lock nothing by any route. People with a right are charged
//! for each write.

use roomgate::dev::{Admin, Answer, Api, Options};
use serde_json::{Value, json};

use crate::world::{Person, World, now, refused};

/// Methods and addresses of all public routes, out of the description of the API.
pub async fn routes(world: &World) -> Vec<(String, String)> {
    let document = Api::new(&world.cluster().nodes()[0].url()).get("/openapi.json").await.unwrap().json();
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| item.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let of = |(path, item): (&String, &Value)| methods(item).into_iter().map(|m| (m, path.clone())).collect();
    paths.iter().flat_map(|route| -> Vec<_> { of(route) }).collect()
}

/// A body that the route would take, where it takes one.
pub fn body(method: &str, path: &str) -> Option<Value> {
    let submit = json!({"op": "o1", "kind": "message", "data": 1});
    match (method, path.rsplit('/').next().unwrap()) {
        ("post", "events") => Some(json!({"items": [submit]})),
        ("post", "invites") | ("put", "{user}") => Some(json!({"role": "viewer"})),
        ("post", "import") => Some(json!({"id": "s1"})),
        ("put", "me") => Some(json!({})),
        ("patch", _) => Some(json!({"name": "Mine", "access": "public"})),
        ("post", _) => Some(json!({})),
        _ => None,
    }
}

pub async fn send(api: &Api, method: &str, path: &str, body: Option<Value>) -> Answer {
    let api = match path.ends_with("/import?op=o1") {
        true => api.clone().with("content-type", "application/x-ndjson"),
        false => api.clone(),
    };
    let method = method.to_uppercase().parse().unwrap();
    api.send(method, path, body.map(|body| body.to_string())).await.unwrap()
}

/// The head of a room as its row is stored, with the row's place and its writer.
async fn head(admin: &Admin, room: u64) -> String {
    let row = "SELECT format('%s %s %s', ctid, xmin, room_head) FROM room_head WHERE room_id = $1";
    admin.query_one(row, &[&(room as i64)]).await.unwrap().get(0)
}

async fn access_rev(world: &World, room: u64) -> i64 {
    let admin = &world.primaries().await[world.shard_of(room).await];
    let revision = "SELECT access_rev FROM room_head WHERE room_id = $1";
    admin.query_one(revision, &[&(room as i64)]).await.unwrap().get(0)
}

/// While the room's head is locked, a request that takes the lock has no answer
/// but `shard_unavailable`.
#[tokio::test]
async fn a_stranger_locks_no_room_by_any_route() {
    let world = World::shared();
    let [olga, eve] = ["olga", "eve"].map(|name| world.person(name));
    let slug = || format!("strange-{:016x}", rand::random::<u64>());
    let api = world.api(&olga);
    let make = async |wish: Value| {
        let made = api.post("/v1/rooms", &wish).await.unwrap();
        made.json()["room"].as_u64().unwrap()
    };
    let wish = json!({"slug": slug(), "schema": "open", "access": "invite"});
    let by_invite = make(wish).await;
    let by_password = make(json!({"slug": slug(), "schema": "open", "password": "open sesame"})).await;
    let public = make(json!({"slug": slug(), "schema": "open", "default_role": "viewer"})).await;
    let invites = format!("/v1/rooms/{by_invite}/invites");
    let invite = world.api(&olga).post(&invites, &json!({"role": "viewer"})).await.unwrap().json();
    let invite = invite["id"].to_string();

    let admins = world.primaries().await;
    let lock = |room: u64| {
        let admins = &admins;
        async move {
            let admin = &admins[world.shard_of(room).await];
            let before = head(admin, room).await;
            let lock = format!("BEGIN; SELECT FROM room_head WHERE room_id = {room} FOR UPDATE");
            admin.batch_execute(&lock).await.unwrap();
            before
        }
    };
    let unlocked = |room: u64| {
        let admins = &admins;
        async move {
            let admin = &admins[world.shard_of(room).await];
            admin.batch_execute("ROLLBACK").await.unwrap();
            head(admin, room).await
        }
    };
    // A public room is readable, and left without having been entered.
    let before = lock(public).await;
    for user in ["me", &eve.user] {
        let path = format!("/v1/rooms/{public}/members/{user}");
        assert_eq!(send(&world.api(&eve), "delete", &path, None).await.status, 204);
    }
    let answer = send(&world.api(&eve), "delete", &format!("/v1/rooms/{public}"), None).await;
    refused(&answer, 403, "forbidden");
    assert_eq!(unlocked(public).await, before);

    let routes = routes(world).await.into_iter().filter(|(_, path)| path.contains("{room}"));
    let routes: Vec<(String, String)> = routes.collect();
    assert!(routes.len() >= 19, "{routes:?}");
    for (room, code) in [(by_invite, "forbidden"), (by_password, "password_required")] {
        let before = lock(room).await;
        for (method, path) in &routes {
            let body = body(method, path);
            let users = if path.contains("{user}") { vec![&olga.user, &eve.user] } else { vec![&eve.user] };
            for user in users {
                let path = path.replace("{room}", &room.to_string()).replace("{invite}", &invite);
                let mut path = path.replace("{user}", user);
                if path.ends_with("/import") {
                    path += "?op=o1";
                }
                let answer = send(&world.api(&eve), method, &path, body.clone()).await;
                // A stranger may know of a room with a password, and leave it.
                if room == by_password && answer.status.is_success() {
                    let is_known = method == "get" && path.ends_with(&room.to_string());
                    assert!(is_known || answer.status == 204, "{method} {path}: {}", answer.text);
                    continue;
                }
                let told = answer.json()["error"]["code"].clone();
                let is_refused = told == code || told == "forbidden";
                assert!(answer.status == 403 && is_refused, "{method} {path}: {}", answer.text);
            }
        }
        assert_eq!(unlocked(room).await, before);
    }
}

/// A name, the person that asks, method, address and body, and by how much
/// `access_rev` rises.
type Step<'a> = (&'a str, &'a Person, &'a str, &'a str, Option<Value>, i64);

#[tokio::test]
async fn access_rev_rises_with_a_change_and_with_nothing_else() {
    let world = World::shared();
    let [olga, bob, eve] = ["olga", "bob", "eve"].map(|name| world.person(name));
    let room = world.room(&olga, "open").await;
    let path = format!("/v1/rooms/{room}");
    let api = world.api(&olga);
    let invite = api.post(&format!("{path}/invites"), &json!({"role": "editor"})).await.unwrap().json();
    let invite = format!("{path}/invites/{}", invite["id"]);
    let member = |person: &Person| format!("{path}/members/{}", person.user);
    let viewer = || Some(json!({"role": "viewer"}));
    let mut revision = access_rev(world, room).await;
    let steps: [Step<'_>; 21] = [
        ("name", &olga, "patch", &path, Some(json!({"name": "New", "metadata": {"a": 1}})), 0),
        ("access", &olga, "patch", &path, Some(json!({"access": "invite"})), 1),
        ("access again", &olga, "patch", &path, Some(json!({"access": "invite"})), 0),
        ("role by default", &olga, "patch", &path, Some(json!({"default_role": "editor"})), 0),
        ("role by default", &olga, "patch", &path, Some(json!({"default_role": "viewer"})), 1),
        ("give", &olga, "put", &member(&bob), viewer(), 1),
        ("give again", &olga, "put", &member(&bob), viewer(), 0),
        ("invite", &olga, "post", &format!("{path}/invites"), Some(json!({"role": "editor"})), 0),
        // That invite would have made bob an editor; by this decision it doesn't.
        ("give again, after an invite", &olga, "put", &member(&bob), viewer(), 1),
        ("give again", &olga, "put", &member(&bob), viewer(), 0),
        ("leave", &bob, "delete", &format!("{path}/members/me"), None, 1),
        ("kick", &olga, "delete", &member(&eve), None, 1),
        ("kick again", &olga, "delete", &member(&eve), None, 0),
        ("leave, kicked", &eve, "delete", &format!("{path}/members/me"), None, 0),
        ("owner is made owner", &olga, "put", &member(&olga), Some(json!({"role": "owner"})), 0),
        ("revoke", &olga, "delete", &invite, None, 0),
        ("revoke again", &olga, "delete", &invite, None, 0),
        ("read", &olga, "get", &path, None, 0),
        ("enter", &olga, "put", &format!("{path}/members/me"), Some(json!({})), 0),
        ("archive", &olga, "delete", &path, None, 1),
        ("archive again", &olga, "delete", &path, None, 0),
    ];
    for (name, person, method, path, body, rises) in steps {
        let answer = send(&world.api(person), method, path, body).await;
        assert!(answer.status.is_success(), "{name}: {}", answer.text);
        let now = access_rev(world, room).await;
        assert_eq!(now - revision, rises, "{name}");
        revision = now;
    }
}

#[tokio::test]
async fn every_route_that_changes_something_is_charged_to_its_user() {
    let few = |options: Options| Options { nodes: 1, shards: 1, replicas: 0, ..options };
    let world = World::start(|options| few(options).set("limits.writes_per_minute", 3)).await;
    let [eve, bob] = ["eve", "bob"].map(|name| world.person(name));
    let nowhere = "/v1/rooms/no-such-room";
    for _ in 0..3 {
        let answer = send(&world.api(&eve), "delete", nowhere, None).await;
        refused(&answer, 404, "room_unknown");
    }
    let mut charged = 0;
    for (method, path) in routes(&world).await.into_iter().filter(|(method, _)| method != "get") {
        charged += 1;
        let path = path.replace("{room}", "1").replace("{user}", "ann").replace("{invite}", "1");
        let answer = send(&world.api(&eve), &method, &path, None).await;
        refused(&answer, 429, "rate_limited");
        assert!(answer.headers.contains_key("retry-after"), "{method} {path}");
    }
    assert!(charged >= 18, "{charged} routes that change something");
    // Neither reads, nor others, nor the operators' own programs.
    assert_eq!(world.api(&eve).get("/v1/me").await.unwrap().status, 200);
    refused(&send(&world.api(&bob), "delete", nowhere, None).await, 404, "room_unknown");
    let token = world.sign(&json!({"sub": "bot", "scope": "server", "exp": now() + 60}));
    let bot = Person { user: "bot".to_owned(), token };
    for _ in 0..5 {
        refused(&send(&world.api(&bot), "delete", nowhere, None).await, 404, "room_unknown");
    }
    // Without a token the address counts, ten times as far.
    let nobody = Api::new(&world.cluster().nodes()[0].url());
    let mut answered = 0;
    while send(&nobody, "post", "/v1/token/refresh", None).await.status != 429 {
        answered += 1;
        assert!(answered <= 30);
    }
    assert!(answered >= 30 - 3, "{answered}");
}
