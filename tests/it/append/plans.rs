//! The plans of the append's statements on tables that are large enough to
//! matter, as prepared statements with unknown parameters get them.

use roomgate::store::append::STATEMENTS;

use super::world::World;

const FILL: &str = "
    INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
      SELECT id, id % 16384, 'room-' || id, 'r', 'olga', 'public', 'editor', 'open' FROM generate_series(1, 5000) AS id;
    INSERT INTO room_head (room_id) SELECT id FROM room;
    INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
      SELECT room, seq, 1, 'op' || seq, 'u' || seq % 5, 'message', '{}', '\\x00', now()
      FROM generate_series(1, 5000) AS room, generate_series(1, 20) AS seq;
    INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
      SELECT room, 's' || n, 1, 'rect', '{}', 1 FROM generate_series(1, 5000) AS room, generate_series(1, 10) AS n;
    INSERT INTO room_member (room_id, user_id, role)
      SELECT room, 'u' || n, 'editor' FROM generate_series(1, 5000) AS room, generate_series(1, 5) AS n;
    ANALYZE;";

#[tokio::test]
async fn no_statement_of_the_append_scans_a_table() {
    let world = World::start().await;
    for (name, value) in roomgate::db::PLANNER {
        world.sql(&format!("SET {name} = {value}")).await;
    }
    // The plan that is made when a new shard is opened is the one that is kept.
    check_plans(&world).await;
    world.sql("ANALYZE").await;
    check_plans(&world).await;
    world.sql(FILL).await;
    check_plans(&world).await;
}

async fn check_plans(world: &World) {
    for sql in STATEMENTS {
        let statement = world.admin.prepare(sql.text).await.unwrap();
        let nulls = vec!["NULL"; statement.params().len()].join(", ");
        world.sql(&format!("PREPARE checked AS {}", sql.text)).await;
        let explain = format!("EXPLAIN EXECUTE checked({nulls})");
        let plan: Vec<String> =
            world.admin.query(&explain, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        world.sql("DEALLOCATE checked").await;
        for line in plan.lines() {
            // Whatever is read of a table is read by its key; shard_claim has one row.
            assert!(!line.contains("Seq Scan") || line.contains("shard_claim"), "{}:\n{plan}", sql.name);
        }
        let by_index = plan.matches(" using ").count() + plan.matches("Bitmap Index Scan").count();
        let by_key = plan.matches("Index Cond").count();
        assert_eq!(by_index, by_key, "an index is read as a whole: {}\n{plan}", sql.name);
    }
}
