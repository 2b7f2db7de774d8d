//! The plans of the statements that write, on the connections that the pools
//! open.

use roomgate::store::{guard, imports};

use crate::routing::world::World;

#[tokio::test]
async fn no_statement_of_an_import_scans_a_table() {
    let world = World::start(0).await;
    for (name, value) in roomgate::db::PLANNER {
        world.sql(&format!("SET {name} = {value}")).await;
    }
    world.sql("ANALYZE").await;
    check(&world).await;
    let fill = "
        INSERT INTO import_line (import_id, line, shape_id, data, digest)
          SELECT uuid_in(md5((n % 20)::text)::cstring), n, 's' || n, '{}', '\\x00' FROM generate_series(1, 20000) AS n;
        INSERT INTO shape (room_id, shape_id, version, type, data, last_seq)
          SELECT n % 100, 's' || n, 1, 'rect', '{}', 1 FROM generate_series(1, 20000) AS n;
        ANALYZE";
    world.sql(fill).await;
    check(&world).await;
}

async fn check(world: &World) {
    // COPY has no plan.
    let statements = guard::STATEMENTS.iter().chain(imports::STATEMENTS);
    for sql in statements.filter(|sql| !sql.text.starts_with("COPY")) {
        let statement = world.admin.prepare(sql.text).await.unwrap();
        let nulls = vec!["NULL"; statement.params().len()].join(", ");
        world.sql(&format!("PREPARE checked AS {}", sql.text)).await;
        let plan = world.admin.query(&format!("EXPLAIN EXECUTE checked({nulls})"), &[]).await.unwrap();
        world.sql("DEALLOCATE checked").await;
        for line in plan.iter().map(|row| row.get::<_, String>(0)) {
            // shard_claim has one row.
            assert!(!line.contains("Seq Scan") || line.contains("shard_claim"), "{}: {line}", sql.name);
        }
    }
}
