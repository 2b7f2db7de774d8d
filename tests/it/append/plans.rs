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
    world.sql(FILL).await;
    world.sql("SET plan_cache_mode = force_generic_plan").await;
    for sql in STATEMENTS {
        let statement = world.admin.prepare(sql.text).await.unwrap();
        let nulls = vec!["NULL"; statement.params().len()].join(", ");
        world.sql(&format!("PREPARE checked AS {}", sql.text)).await;
        let explain = format!("EXPLAIN EXECUTE checked({nulls})");
        let plan: Vec<String> =
            world.admin.query(&explain, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        world.sql("DEALLOCATE checked").await;
        // shard_claim has one row.
        let scans = plan.lines().filter(|line| line.contains("Seq Scan") && !line.contains("shard_claim"));
        assert_eq!(scans.count(), 0, "{}:\n{plan}", sql.name);
        assert!(!plan.contains("Hash Join") && !plan.contains("Merge Join"), "{}:\n{plan}", sql.name);
    }
}
