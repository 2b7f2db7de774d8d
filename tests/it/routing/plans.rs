//! The plans of all reads on tables that are large enough to matter, as
//! prepared statements with unknown parameters get them.

use roomgate::store::history::STATEMENTS;

use super::world::World;

const FILL: &str = "
    INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
      SELECT id, id % 16384, 'room-' || id, 'r', 'olga', 'public', 'editor', 'open' FROM generate_series(1, 2000) AS id;
    INSERT INTO room_head (room_id, head_seq, head_epoch) SELECT id, 1000, 7 FROM room;
    INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, created_at)
      SELECT room, seq, 7, 'op' || seq, 'u' || seq % 5, 'message', '{}', '\\x00', now()
      FROM generate_series(1, 200) AS room, generate_series(1, 1000) AS seq;
    INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
      SELECT room, 's' || n, 1, 'rect', '{}', 1 FROM generate_series(1, 2000) AS room, generate_series(1, 50) AS n;
    INSERT INTO room_snapshot (room_id, seq, epoch, parts, as_of)
      SELECT room, n * 100, 7, 2, now() FROM generate_series(1, 2000) AS room, generate_series(1, 10) AS n;
    INSERT INTO room_snapshot_part (room_id, seq, part, shape_ids, versions, types, shapes)
      SELECT room, n * 100, part, '{a}', '{1}', '{rect}', '{\"{}\"}'
        FROM generate_series(1, 2000) AS room, generate_series(1, 10) AS n, generate_series(1, 2) AS part;
    INSERT INTO room_counted (room_id, seq) SELECT room, 500 FROM generate_series(1, 2000) AS room;
    INSERT INTO room_daily (room_id, day, events, users)
      SELECT room, date '2026-01-01' + n, 1, 1 FROM generate_series(1, 2000) AS room, generate_series(1, 50) AS n;
    INSERT INTO room_daily_visits (room_id, day, visits)
      SELECT room, date '2026-01-01' + n, 1 FROM generate_series(1, 2000) AS room, generate_series(1, 50) AS n;
    INSERT INTO room_daily_user (room_id, day, digest)
      SELECT room, date '2026-01-01' + n % 2, n FROM generate_series(1, 2000) AS room, generate_series(1, 20) AS n;
    ANALYZE;";

#[tokio::test]
async fn no_read_scans_a_table() {
    let world = World::start(0).await;
    world.sql(FILL).await;
    world.sql("SET plan_cache_mode = force_generic_plan").await;
    for sql in STATEMENTS {
        let statement = world.admin.prepare(sql.text).await.unwrap();
        let nulls = vec!["NULL"; statement.params().len()].join(", ");
        world.sql(&format!("PREPARE checked AS {}", sql.text)).await;
        let plan = world.admin.query(&format!("EXPLAIN EXECUTE checked({nulls})"), &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        world.sql("DEALLOCATE checked").await;
        assert!(!plan.contains("Seq Scan"), "{}:\n{plan}", sql.name);
        assert!(!plan.contains("Hash Join") && !plan.contains("Merge Join"), "{}:\n{plan}", sql.name);
    }
}
