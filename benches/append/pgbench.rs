//! The same statements without a gateway: `pgbench`, pipelined and prepared.

use std::process::Command;
use std::time::{Duration, Instant};

use super::cpu::Cpu;
use super::world::World;

#[derive(Debug, Clone, Copy)]
pub enum Script {
    /// One submit a transaction.
    Single,
    /// A hundred submits a transaction, made by the server itself.
    Batch,
}

const ROOMS: i64 = 1000;
const BATCH: u64 = 100;

/// Rooms 1 … 1000.
pub async fn prepare(world: &World) {
    let fill = format!(
        "INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema)
           SELECT id, id, 'bench-' || id, 'r', 'olga', 'public', 'editor', 'open' FROM generate_series(1, {ROOMS}) AS id;
         INSERT INTO room_head (room_id) SELECT generate_series(1, {ROOMS});
         ANALYZE;"
    );
    world.sql(&fill).await;
}

pub async fn run(world: &World, script: Script, clients: usize, span: Duration) {
    world.sql("CHECKPOINT").await;
    let file = world.scratch.path().join(format!("{script:?}.sql"));
    std::fs::write(&file, text(script)).unwrap();
    let seconds = span.as_secs().to_string();
    let (port, clients_text) = (world.server.port().to_string(), clients.to_string());
    let mut command = Command::new("pgbench");
    command.args(["-n", "-M", "prepared", "-T", &seconds, "-c", &clients_text, "-j", "1"]);
    command.args(["-h", "127.0.0.1", "-p", &port, "-U", "roomgate", "-f"]).arg(&file).arg("roomgate");
    command.env("PGOPTIONS", "-c plan_cache_mode=force_generic_plan");
    let (cpu, started) = (Cpu::now(world.server.service().pid()), Instant::now());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let used = Cpu::now(world.server.service().pid()).since(&cpu);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let figure = |name: &str| -> f64 {
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let (tps, latency) = (figure("tps ="), figure("latency average"));
    let per = if matches!(script, Script::Batch) { BATCH } else { 1 };
    let submits = tps * started.elapsed().as_secs_f64() * per as f64;
    println!(
        "| pgbench | {ROOMS} | {clients} | {:.0} | mean {latency:.2} | | {per} | | {:.1} |",
        tps * per as f64,
        used.server.as_secs_f64() * 1e6 / submits,
    );
}

fn text(script: Script) -> String {
    match script {
        Script::Single => SINGLE.to_owned(),
        Script::Batch => BATCHED.to_owned(),
    }
}

const SINGLE: &str = "\
\\set room random(1, 1000)
\\set shape random(1, 20)
\\set op random(1, 1000000000000)
\\startpipeline
BEGIN;
SELECT pg_advisory_xact_lock_shared(1936486260, :room);
SELECT head_seq, head_epoch, cleared_seq, live_shapes FROM room_head WHERE room_id = :room FOR NO KEY UPDATE;
SELECT o.epoch, o.state, r.owner, r.access, r.default_role, r.schema, r.archived_at IS NOT NULL, c.timeline, left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM room r JOIN slot_owner o USING (slot), shard_claim c WHERE r.id = :room;
SELECT version, type, data, last_seq FROM shape WHERE room_id = :room AND shape_id = 's' || :shape;
SELECT seq, epoch, digest, version, cleared FROM room_event WHERE room_id = :room AND user_id = 'bench' AND op_id = 'op' || :op;
SELECT role FROM room_member WHERE room_id = :room AND user_id = 'bench';
INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, version, created_at) SELECT room_id, head_seq + 1, 7, 'op' || :op, 'bench', 'shape.put', '{\"shape\":{\"id\":\"s1\",\"type\":\"rect\",\"x\":1234}}', '\\x00112233445566778899aabbccddeeff', 1, now() FROM room_head WHERE room_id = :room;
INSERT INTO shape (room_id, shape_id, version, type, data, last_seq) SELECT room_id, 's' || :shape, 1, 'rect', '{\"id\":\"s1\",\"type\":\"rect\",\"x\":1234}', head_seq + 1 FROM room_head WHERE room_id = :room ON CONFLICT (room_id, shape_id) DO UPDATE SET version = shape.version + 1, data = excluded.data, type = excluded.type, deleted = false, last_seq = excluded.last_seq;
UPDATE room_head SET head_seq = head_seq + 1, head_epoch = 7 WHERE room_id = :room;
COMMIT;
\\endpipeline
";

const BATCHED: &str = "\
\\set first random(1, 900)
\\set shape random(1, 20)
\\set op random(1, 1000000000000)
\\startpipeline
BEGIN;
SELECT count(pg_advisory_xact_lock_shared(1936486260, slot)) FROM generate_series(:first, :first + 99) AS slot;
SELECT room_id, head_seq, head_epoch, cleared_seq, live_shapes FROM room_head WHERE room_id BETWEEN :first AND :first + 99 ORDER BY room_id FOR NO KEY UPDATE;
SELECT o.epoch, o.state, r.owner, r.access, r.default_role, r.schema, r.archived_at IS NOT NULL FROM generate_series(:first, :first + 99) AS w (id) JOIN room r USING (id) JOIN slot_owner o USING (slot);
SELECT version, type, data, last_seq FROM generate_series(:first, :first + 99) AS w (room_id) JOIN shape s ON s.room_id = w.room_id AND s.shape_id = 's' || :shape;
SELECT seq, epoch, digest, version, cleared FROM generate_series(:first, :first + 99) AS w (room_id) JOIN room_event e ON e.room_id = w.room_id AND e.user_id = 'bench' AND e.op_id = 'op' || :op;
SELECT role FROM generate_series(:first, :first + 99) AS w (room_id) JOIN room_member m ON m.room_id = w.room_id AND m.user_id = 'bench';
INSERT INTO room_event (room_id, seq, epoch, op_id, user_id, kind, body, digest, version, created_at) SELECT room_id, head_seq + 1, 7, 'op' || :op, 'bench', 'shape.put', '{\"shape\":{\"id\":\"s1\",\"type\":\"rect\",\"x\":1234}}', '\\x00112233445566778899aabbccddeeff', 1, now() FROM generate_series(:first, :first + 99) AS w (room_id) JOIN room_head USING (room_id);
INSERT INTO shape (room_id, shape_id, version, type, data, last_seq) SELECT room_id, 's' || :shape, 1, 'rect', '{\"id\":\"s1\",\"type\":\"rect\",\"x\":1234}', head_seq + 1 FROM generate_series(:first, :first + 99) AS w (room_id) JOIN room_head USING (room_id) ON CONFLICT (room_id, shape_id) DO UPDATE SET version = shape.version + 1, data = excluded.data, type = excluded.type, deleted = false, last_seq = excluded.last_seq;
UPDATE room_head SET head_seq = head_seq + 1, head_epoch = 7 FROM generate_series(:first, :first + 99) AS w (room_id) WHERE room_head.room_id = w.room_id;
COMMIT;
\\endpipeline
";
