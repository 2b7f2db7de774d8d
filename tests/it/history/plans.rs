//! The plans of the statements that guard writes, on the connections that the
//! pools open.

use roomgate::store::guard::STATEMENTS;

use crate::routing::world::World;

#[tokio::test]
async fn no_statement_of_the_guard_scans_a_table() {
    let world = World::start(0).await;
    for (name, value) in roomgate::db::PLANNER {
        world.sql(&format!("SET {name} = {value}")).await;
    }
    world.sql("ANALYZE").await;
    for sql in STATEMENTS {
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
