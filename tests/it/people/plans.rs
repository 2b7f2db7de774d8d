//! The plans of all statements about rooms and their people, as prepared
//! statements with unknown parameters get them on the pools' connections.

use roomgate::db::Sql;
use roomgate::directory;
use roomgate::store::{audit, rooms};

use super::world::World;

const FILL: &str = "
    INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
      SELECT id, id % 16384, 'room-' || id, 'r', 'olga' || id % 500, 'public', 'editor', 'open'
        FROM generate_series(1, 20000) AS id;
    INSERT INTO room_head (room_id, head_seq, head_epoch) SELECT id, 10, 7 FROM room;
    INSERT INTO room_member (room_id, user_id, role)
      SELECT room, 'u' || n, 'editor' FROM generate_series(1, 20000) AS room, generate_series(1, 5) AS n;
    INSERT INTO room_invite (room_id, id, digest, role, expires_at, made_rev, created_by)
      SELECT room, n, decode(md5(room || '-' || n), 'hex'), 'viewer', now() + n * interval '1 day', 1, 'olga'
        FROM generate_series(1, 20000) AS room, generate_series(1, 3) AS n;
    INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
      SELECT room, seq, 7, 'op' || seq, 'u', 'message', '{}', '\\x00', now()
        FROM generate_series(1, 20000) AS room, generate_series(1, 10) AS seq;
    INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
      SELECT room, 's' || n, 1, 'rect', '{}', 1 FROM generate_series(1, 20000) AS room, generate_series(1, 5) AS n;
    INSERT INTO room_daily_visits (room_id, day, visits)
      SELECT room, date '2026-01-01' + n, 1 FROM generate_series(1, 20000) AS room, generate_series(1, 5) AS n;
    ANALYZE;";

#[tokio::test]
async fn no_statement_about_rooms_and_their_people_scans_a_table() {
    let world = World::start().await;
    for (name, value) in roomgate::db::PLANNER {
        world.sql(&format!("SET {name} = {value}")).await;
    }
    let statements: Vec<&Sql> = [rooms::STATEMENTS, audit::STATEMENTS].concat();
    world.sql("ANALYZE").await;
    check(&world, &statements).await;
    world.sql(FILL).await;
    check(&world, &statements).await;
}

const FILL_DIRECTORY: &str = "
    SET search_path = directory;
    INSERT INTO account (id, email, name, password_hash)
      SELECT 'u' || n, 'u' || n || '@x.test', 'n', 'h' FROM generate_series(1, 50000) AS n;
    INSERT INTO refresh_token (digest, family, account_id, expires_at)
      SELECT decode(md5(n::text), 'hex'), md5(n::text)::uuid, 'u' || n, now() + n * interval '1 minute'
        FROM generate_series(1, 50000) AS n;
    INSERT INTO slug (slug, room_id, owner, state)
      SELECT 'slug-' || n, n, 'u' || n % 1000, 'active' FROM generate_series(1, 50000) AS n;
    INSERT INTO idempotency (user_id, key, digest, makes, try, created_at)
      SELECT 'u' || n, 'k', '\\x00', n, md5(n::text)::uuid, now() - n * interval '1 minute'
        FROM generate_series(1, 50000) AS n;
    INSERT INTO revocation (id, user_id, revoked_at, expires_at)
      SELECT md5(n::text)::uuid, 'u' || n, now() - n * interval '1 minute', now() + (n - 100) * interval '1 minute'
        FROM generate_series(1, 50000) AS n;
    INSERT INTO erasure (user_id, done_at, checked_at)
      SELECT 'u' || n, now(), now() FROM generate_series(1, 50000) AS n;
    ANALYZE;";

#[tokio::test]
async fn no_statement_of_the_directory_scans_a_table() {
    let world = World::start().await;
    for (name, value) in roomgate::db::PLANNER {
        world.sql(&format!("SET {name} = {value}")).await;
    }
    world.sql(FILL_DIRECTORY).await;
    check(&world, directory::STATEMENTS).await;
}

async fn check(world: &World, statements: &[&Sql]) {
    for sql in statements {
        let statement = world.admin.prepare(sql.text).await.unwrap();
        let nulls = vec!["NULL"; statement.params().len()].join(", ");
        world.sql(&format!("PREPARE checked AS {}", sql.text)).await;
        let plan = world.admin.query(&format!("EXPLAIN EXECUTE checked({nulls})"), &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        world.sql("DEALLOCATE checked").await;
        for line in &plan {
            // shard_claim has one row; what a join has found is no table.
            let scans = line.contains("Seq Scan") && !line.contains("shard_claim");
            assert!(!scans, "{}:\n{}", sql.name, plan.join("\n"));
        }
    }
}
