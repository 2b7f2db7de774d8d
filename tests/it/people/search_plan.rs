//! What a search reads, by a plan that was made while the tables were small.

use roomgate::store::rooms::STATEMENTS;

use super::world::World;

/// The ids are in no order that the table's is.
const FILL: &str = "
    INSERT INTO room (id, slot, slug, name, owner, access, default_role, schema, metadata)
      SELECT id, id % 16384, 'room-' || id, 'r', 'u' || id % 1000, CASE id % 10 WHEN 0 THEN 'invite' ELSE 'public' END,
             'editor', 'open', jsonb_build_object('kind', 'board', 'team', 't' || id % 5000, 'tags', jsonb_build_array('a', n % 7))
        FROM (SELECT n, n::bigint * 48271 % 1000003 + 1 AS id FROM generate_series(1, 100000) AS n) AS ids;
    INSERT INTO room_head (room_id) SELECT id FROM room;
    INSERT INTO room_member (room_id, user_id, role)
      SELECT id, 'm' || id % 500, CASE id % 20 WHEN 0 THEN 'removed' ELSE 'editor' END FROM room;
    ANALYZE";

#[tokio::test]
async fn a_search_in_100_000_rooms_reads_few_of_them_whether_few_match_or_all() {
    let world = World::start().await;
    for (name, value) in roomgate::db::PLANNER {
        world.sql(&format!("SET {name} = {value}")).await;
    }
    let sql = STATEMENTS.iter().find(|sql| sql.name == "rooms_by_metadata").unwrap();
    world.sql("ANALYZE").await;
    world.sql(&format!("PREPARE early AS {}", sql.text)).await;
    world.sql("EXPLAIN EXECUTE early('m17', 0, 51, '{}', 5000)").await;
    world.sql(FILL).await;
    // (what is looked for, after, rooms of `room` that are read, rooms found)
    for (metadata, after, most, found) in [
        (r#"{"team":"t17"}"#, 0, 100, 19),
        (r#"{"kind":"board","team":"t17"}"#, 500_000, 100, 9),
        (r#"{"kind":"nothing"}"#, 0, 0, 0),
        (r#"{"kind":"board"}"#, 0, 5_500, 51),
        (r#"{"kind":"board"}"#, 900_000, 5_500, 51),
        ("{}", 0, 5_500, 51),
    ] {
        // Whoever the planner was when the table was small, it is the same plan.
        let execute = format!(
            "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, COSTS OFF) EXECUTE early('nobody', {after}, 51, '{metadata}', 5000)"
        );
        let rows = world.admin.query(&execute, &[]).await.unwrap();
        let plan = rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
        assert!(plan.contains("Bitmap Index Scan on room_by_metadata"), "{plan}");
        assert!(!plan.contains("Seq Scan"), "{plan}");
        let (read, first) = (rooms_read(&plan), plan.lines().next().unwrap());
        println!("{metadata} after {after}: {read} rooms read; {}", plan.lines().last().unwrap());
        assert!(read <= most, "{metadata}: {read} rooms\n{plan}");
        assert!(first.contains(&format!("rows={found} ")), "{metadata}:\n{plan}");
    }
}

/// Rows of `room` that scans of the heap gave, or looked at in vain; each once.
fn rooms_read(plan: &str) -> u64 {
    let number = |line: &str, key: &str| {
        let digits = line.split(key).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<u64>().ok()
    };
    let lines: Vec<&str> = plan.lines().collect();
    let is_scan = |line: &str| {
        (line.contains("Bitmap Heap Scan on room") || line.contains("Scan using room_pkey on room"))
            && !line.contains("room_member")
            && !line.contains("never executed")
    };
    let mut read = 0;
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_scan(line)) {
        let loops = number(line, "loops=").unwrap();
        let own = lines[at + 1..].iter().take_while(|line| !line.contains("->"));
        let in_vain = own.filter_map(|line| number(line, "Rows Removed by Filter: ")).sum::<u64>();
        read += (number(line, "rows=").unwrap() + in_vain) * loops;
    }
    read
}
