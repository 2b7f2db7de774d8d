//! Who may do what: every address of a room, asked by everybody, of every kind of
//! room.

use std::collections::BTreeSet;

use roomgate::dev::{Api, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Person, World, now};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Stranger,
    Removed,
    Viewer,
    Editor,
    /// A member with that role, not the one whose room it is.
    Owner,
    /// `scope:"server"`.
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `default_role` is viewer.
    Public,
    Password,
    Invite,
    Archived,
}

/// What an address is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// That there is such a room.
    Known,
    Read,
    Write,
    /// As oneself, whatever the scope.
    Enter,
    Manage,
    /// The same, also when it is archived.
    ManageAnyway,
}

use Class::{Enter, Known, Manage, ManageAnyway, Read, Write};

/// Method, address and class. What ends a room or changes who one is comes last.
pub const ADDRESSES: [(&str, &str, Class); 20] = [
    ("GET", "/v1/rooms/{room}", Known),
    ("GET", "/v1/rooms/{room}/shapes", Read),
    ("GET", "/v1/rooms/{room}/shapes?seq=0", Read),
    ("GET", "/v1/rooms/{room}/events", Read),
    ("GET", "/v1/rooms/{room}/events?stream=ndjson", Read),
    ("GET", "/v1/rooms/{room}/presence", Read),
    ("GET", "/v1/rooms/{room}/stats", Read),
    ("GET", "/v1/rooms/{room}/members", Read),
    ("GET", "/chats/{room}", Read),
    ("POST", "/v1/rooms/{room}/events", Write),
    ("POST", "/v1/rooms/{room}/import", Write),
    ("PUT", "/v1/rooms/{room}/members/{user}", Manage),
    ("DELETE", "/v1/rooms/{room}/members/{user}", ManageAnyway),
    ("POST", "/v1/rooms/{room}/invites", Manage),
    ("GET", "/v1/rooms/{room}/invites", ManageAnyway),
    ("GET", "/v1/rooms/{room}/audit", ManageAnyway),
    ("PATCH", "/v1/rooms/{room}", Manage),
    ("GET", "/v1/rooms/{room}/live", Enter),
    ("PUT", "/v1/rooms/{room}/members/me", Enter),
    ("DELETE", "/v1/rooms/{room}", ManageAnyway),
];

/// Shown by other tests: leaving is everybody's, an invite needs one to revoke.
const ELSEWHERE: [&str; 2] =
    ["DELETE /v1/rooms/{room}/members/me", "DELETE /v1/rooms/{room}/invites/{invite}"];

fn expected(class: Class, kind: Kind, who: Who) -> &'static str {
    match (class, kind, who) {
        (Write | Manage, Kind::Archived, Who::Server) => "room_archived",
        (Known | Read | Write | Manage | ManageAnyway, _, Who::Server) => "ok",
        (Manage, Kind::Archived, Who::Owner) => "room_archived",
        (Manage | ManageAnyway, _, Who::Owner) => "ok",
        (Manage | ManageAnyway, _, _) | (_, _, Who::Removed) => "forbidden",
        (Known, Kind::Invite, Who::Stranger) => "forbidden",
        (Known, _, _) => "ok",
        (_, Kind::Archived, _) => "room_archived",
        (_, Kind::Password, Who::Stranger | Who::Server) => "password_required",
        (_, Kind::Invite, Who::Stranger | Who::Server) => "forbidden",
        (Write, _, Who::Stranger | Who::Viewer) => "forbidden",
        _ => "ok",
    }
}

struct People<'a> {
    world: &'a World,
    /// Whose room it is.
    maker: Person,
    all: Vec<(Who, Person)>,
}

impl<'a> People<'a> {
    async fn of(world: &'a World) -> Self {
        let maker = world.person("maker");
        let token = world.sign(&json!({"sub": "bot", "scope": "server", "exp": now() + 3600}));
        let person = |who| match who {
            Who::Server => Person { user: "bot".to_owned(), token: token.clone() },
            who => world.person(&format!("{who:?}")),
        };
        let all = [Who::Stranger, Who::Removed, Who::Viewer, Who::Editor, Who::Owner, Who::Server];
        Self { world, maker, all: all.map(|who| (who, person(who))).to_vec() }
    }

    async fn room(&self, kind: Kind) -> u64 {
        let mut wish = json!({
            "slug": format!("rights-{:016x}", rand::random::<u64>()), "schema": "open", "default_role": "viewer"
        });
        match kind {
            Kind::Public | Kind::Archived => {}
            Kind::Password => wish["password"] = "open sesame".into(),
            Kind::Invite => wish["access"] = "invite".into(),
        }
        let api = self.world.api(&self.maker);
        let room = api.post("/v1/rooms", &wish).await.unwrap().json()["room"].as_u64().unwrap();
        let send = async |method: &str, rest: String, body: Option<Value>| {
            let path = format!("/v1/rooms/{room}{rest}");
            let body = body.map(|body| body.to_string());
            let answer = api.send(method.parse().unwrap(), &path, body).await.unwrap();
            assert!(answer.status.is_success(), "{}", answer.text);
        };
        for (who, person) in &self.all {
            let path = format!("/members/{}", person.user);
            let role = match who {
                Who::Removed => {
                    send("DELETE", path, None).await;
                    continue;
                }
                Who::Viewer => "viewer",
                Who::Editor => "editor",
                Who::Owner => "owner",
                Who::Stranger | Who::Server => continue,
            };
            send("PUT", path, Some(json!({"role": role}))).await;
        }
        if kind == Kind::Archived {
            send("DELETE", String::new(), None).await;
        }
        room
    }

    /// `ok` or the code of the refusal.
    async fn ask(&self, method: &str, address: &str, room: u64, person: &Person) -> String {
        let nobody = format!("nobody-{:08x}", rand::random::<u32>());
        let path = address.replace("{room}", &room.to_string()).replace("{user}", &nobody);
        if address.ends_with("/live") {
            return self.live(&path, person).await;
        }
        let op = format!("op-{:016x}", rand::random::<u64>());
        let submit = json!({"items": [{"op": op, "kind": "message", "data": 1}]});
        let (path, body) = match (method, address.rsplit('/').next().unwrap()) {
            ("POST", "events") => (path, Some(submit)),
            ("POST", "import") => (format!("{path}?op={op}"), Some(json!({"id": op}))),
            ("PUT", "{user}") | ("POST", "invites") => (path, Some(json!({"role": "viewer"}))),
            ("PATCH", _) => (path, Some(json!({"name": op}))),
            _ => (path, None),
        };
        let mut api = self.world.api(person);
        if address.ends_with("/import") {
            api = api.with("content-type", "application/x-ndjson");
        }
        let body = body.map(|body| body.to_string());
        let answer = api.send(method.parse().unwrap(), &path, body).await.unwrap();
        let told = answer.json();
        let code = &if answer.status.is_success() { &told["items"][0] } else { &told["error"] }["code"];
        code.as_str().unwrap_or(if answer.status.is_success() { "ok" } else { "no code" }).to_owned()
    }

    /// A stream doesn't end: its head is enough.
    async fn live(&self, path: &str, person: &Person) -> String {
        let url = self.world.cluster().nodes()[0].url();
        let mut tcp = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            person.token
        );
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.starts_with(b"HTTP/1.1 200") {
            let mut part = [0; 1024];
            match tcp.read(&mut part).await.unwrap() {
                0 => break,
                read => answer.extend_from_slice(&part[..read]),
            }
        }
        let text = String::from_utf8_lossy(&answer);
        let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
        if text.starts_with("HTTP/1.1 200") { "ok".to_owned() } else { code.unwrap_or("no code").to_owned() }
    }
}

/// Without replicas: what was just given and taken counts at once.
#[tokio::test]
async fn every_address_of_a_room_lets_in_whom_it_should_and_nobody_else() {
    let world = World::start(|options| Options { nodes: 2, shards: 2, replicas: 0, ..options }).await;
    let document = Api::new(&world.cluster().nodes()[0].url()).get("/openapi.json").await.unwrap().json();
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.contains("{room}"))
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let asked = |(method, address, _): &(&str, &str, Class)| {
        format!("{method} {}", address.split('?').next().unwrap())
    };
    let mut covered: BTreeSet<String> = ADDRESSES.iter().map(asked).collect();
    covered.extend(ELSEWHERE.map(str::to_owned));
    let missing: Vec<&String> = described.difference(&covered).collect();
    assert!(missing.is_empty(), "nobody says who may use {missing:?}");

    let people = People::of(&world).await;
    let (mut wrong, mut answers) = (Vec::new(), 0);
    for kind in [Kind::Public, Kind::Password, Kind::Invite, Kind::Archived] {
        let room = people.room(kind).await;
        for address in &ADDRESSES {
            if !described.contains(&asked(address)) && !address.1.starts_with("/chats") {
                continue;
            }
            for (who, person) in &people.all {
                let (method, path, class) = *address;
                let (told, should) =
                    (people.ask(method, path, room, person).await, expected(class, kind, *who));
                answers += 1;
                if told != should {
                    wrong.push(format!("{who:?} of {kind:?}, {method} {path}: {told}, not {should}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "of {answers} answers\n{}", wrong.join("\n"));
    assert!(answers > 400, "{answers}");
}
