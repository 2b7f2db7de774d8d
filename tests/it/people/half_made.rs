//! Making a room spans the directory and a shard: what a crash leaves between
//! any two steps is repaired.

use std::time::Duration;

use roomgate::dev::{Admin, Options, connect};
use roomgate::directory::Directory;
use serde_json::{Value, json};

use crate::people::world as stored;
use crate::world::{Person, World};

/// What a crashed node left in the directory.
struct Left<'a> {
    world: &'a World,
    directory: Admin,
    owner: Person,
}

/// Two nodes, both with a janitor that waits for nothing; two shards.
async fn world() -> World {
    World::start(|options| {
        let options = options.set("jobs.janitor_interval_ms", 100).set("jobs.unfinished_room_ms", 0);
        Options { nodes: 2, shards: 2, replicas: 0, ..options }
    })
    .await
}

impl<'a> Left<'a> {
    async fn by(world: &'a World) -> Self {
        let directory = connect(&world.cluster().shards()[0].primary().admin_dsn()).await.unwrap();
        Self { world, directory, owner: world.person("olga") }
    }

    /// The first step, and nothing after it.
    async fn reserved(&self, slug: &str, room: i64, plan: Option<Value>) {
        let plan = plan.map(|plan| plan.to_string());
        let insert = "INSERT INTO directory.slug (slug, room_id, owner, state, plan, created_at)
                      VALUES ($1, $2, $3, 'creating', $4::text::jsonb, now() - interval '1 hour')";
        self.directory.execute(insert, &[&slug, &room, &self.owner.user, &plan]).await.unwrap();
    }

    async fn state(&self, slug: &str) -> Option<String> {
        let row =
            self.directory.query_opt("SELECT state FROM directory.slug WHERE slug = $1", &[&slug]).await;
        row.unwrap().map(|row| row.get(0))
    }

    /// Until the slug is in no half made state any more.
    async fn repaired(&self, slug: &str) -> Option<String> {
        let repaired = async {
            loop {
                match self.state(slug).await {
                    Some(state) if state == "creating" => tokio::time::sleep(Duration::from_millis(20)).await,
                    state => return state,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), repaired).await.expect("the janitor repairs it")
    }

    async fn rows(&self, slug: &str) -> usize {
        let mut rows = 0;
        for shard in self.world.primaries().await {
            rows += shard.query("SELECT FROM room WHERE slug = $1", &[&slug]).await.unwrap().len();
        }
        rows
    }
}

fn plan() -> Value {
    json!({
        "name": "Ours <b>'; --", "access": "public", "default_role": "viewer", "schema": "open",
        "password_hash": null, "metadata": {"team": "blue", "n": 1.5}
    })
}

#[tokio::test]
async fn a_room_whose_maker_crashed_after_any_step_is_finished_by_every_janitor_together() {
    let world = world().await;
    let left = Left::by(&world).await;
    // After the first step: more than one round, on both shards.
    for n in 0..120 {
        left.reserved(&format!("reserved-{n}"), 1_000_000 + n, Some(plan())).await;
    }
    for n in 0..120 {
        let slug = format!("reserved-{n}");
        assert_eq!(left.repaired(&slug).await.as_deref(), Some("active"));
    }
    let made = world.api(&left.owner).get("/v1/rooms/reserved-7").await.unwrap().json();
    for (field, value) in [
        ("room", json!(1_000_007)),
        ("name", json!("Ours <b>'; --")),
        ("owner", json!(left.owner.user)),
        ("default_role", json!("viewer")),
        ("schema", json!("open")),
        ("metadata", json!({"team": "blue", "n": 1.5})),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    let mine = world.api(&left.owner).get("/v1/rooms?limit=1000").await.unwrap().json();
    assert_eq!(mine["items"].as_array().unwrap().len(), 120);

    // After the second step: the shard has it, the directory doesn't say so.
    for plan in [Some(plan()), None] {
        let done = world.room_called(&left.owner, "inserted", "open").await;
        left.directory.execute("DELETE FROM directory.slug WHERE slug = 'inserted'", &[]).await.unwrap();
        left.reserved("inserted", i64::try_from(done).unwrap(), plan).await;
        assert_eq!(left.repaired("inserted").await.as_deref(), Some("active"));
        assert_eq!(left.rows("inserted").await, 1);
        for shard in world.primaries().await {
            shard.batch_execute("DELETE FROM room WHERE slug = 'inserted'").await.unwrap();
        }
        left.directory.execute("DELETE FROM directory.slug WHERE slug = 'inserted'", &[]).await.unwrap();
    }

    // After the first step of a program that kept no plan: undone, and free again.
    left.reserved("planless", 42, None).await;
    assert_eq!(left.repaired("planless").await, None);
    assert_eq!(left.rows("planless").await, 0);
    world.room_called(&world.person("bob"), "planless", "open").await;
}

#[tokio::test]
async fn the_owner_continues_a_half_made_room_and_nobody_else_gets_its_slug() {
    // The janitor stays away.
    let world = World::start(|options| Options { nodes: 2, shards: 2, replicas: 0, ..options }).await;
    let left = Left::by(&world).await;
    left.reserved("half-made", 4242, Some(plan())).await;
    let eve = world.person("eve");
    let wish = json!({"slug": "half-made", "name": "Mine now", "password": "open sesame"});
    assert_eq!(world.api(&eve).post("/v1/rooms", &wish).await.unwrap().status, 409);
    // Many times at once: the same room.
    let tries = (0..8).map(|n| {
        let api = world.api_of(n % 2, &left.owner);
        let wish = wish.clone();
        async move { api.post("/v1/rooms", &wish).await.unwrap() }
    });
    let answers = futures_util::future::join_all(tries).await;
    assert!(answers.iter().any(|answer| answer.status == 201));
    for answer in &answers {
        let taken = answer.status == 409 && answer.json()["error"]["code"] == "slug_taken";
        assert!(taken || answer.status == 201 && answer.json()["room"] == 4242, "{}", answer.text);
    }
    assert_eq!((left.state("half-made").await.as_deref(), left.rows("half-made").await), (Some("active"), 1));
    assert_eq!(world.api(&eve).post("/v1/rooms", &wish).await.unwrap().status, 409);
}

#[tokio::test]
async fn of_many_who_want_a_slug_at_once_one_has_it_and_no_two_rooms_share_it() {
    let world = stored::World::start().await;
    let make = async |directory: &Directory, owner: &str| {
        let mut new = stored::new_room(&stored::user(owner));
        new.slug = roomgate::ids::Slug::new("wanted").unwrap();
        new.room = directory.reserve_room(&new, 0).await?;
        world.rooms.insert(&new, stored::soon()).await.unwrap();
        directory.activate_slug(&new.slug, new.room).await
    };
    let owners: Vec<String> = (0..16).map(|n| format!("u{n}")).collect();
    let made = futures_util::future::join_all(owners.iter().map(|owner| make(&world.directory, owner))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    assert_eq!((world.count("room").await, world.count("directory.slug").await), (1, 1));
}
