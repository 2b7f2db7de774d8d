//! One effect per op, whichever node is asked, however often.

use serde_json::json;

use crate::client::rect;
use crate::convergence::FROM_PRIMARY;
use crate::world::World;

#[tokio::test]
async fn a_resubmitted_op_gets_its_first_seq_from_any_node() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let body = json!({"kind": "shape.add", "shape": rect("r1", 1)});

    let mut first = world.client(0, &alice).await;
    first.join(room).await;
    let ack = first.submit(room, "op-1", &body).await;
    assert_eq!((&ack["type"], &ack["seq"], &ack["version"]), (&json!("ack"), &json!(1), &json!(1)));

    for node in [1, 2, 0] {
        let mut again = world.client(node, &alice).await;
        again.join(room).await;
        let ack = again.submit(room, "op-1", &body).await;
        assert_eq!((&ack["type"], &ack["seq"], &ack["duplicate"]), (&json!("ack"), &json!(1), &json!(true)));
    }
    let log = world.api(&alice).get(&format!("/v1/rooms/{room}/events?{FROM_PRIMARY}")).await.unwrap().json();
    assert_eq!(log["head"], 1, "{log}");
}

#[tokio::test]
async fn an_op_with_another_body_is_refused_and_the_first_stands() {
    let world = World::shared();
    let alice = world.person("alice");
    let room = world.room(&alice, "drawing").await;
    let mut here = world.client(0, &alice).await;
    here.join(room).await;
    here.submit(room, "op-1", &json!({"kind": "shape.add", "shape": rect("r1", 1)})).await;

    let mut there = world.client(1, &alice).await;
    there.join(room).await;
    for other in [
        json!({"kind": "shape.add", "shape": rect("r1", 2)}),
        json!({"kind": "shape.put", "shape": rect("r1", 1)}),
        json!({"kind": "room.clear"}),
    ] {
        let reject = there.submit(room, "op-1", &other).await;
        assert_eq!((&reject["type"], &reject["code"]), (&json!("reject"), &json!("op_reused")), "{reject}");
    }
    there.catches_up(room, 1).await;
    assert_eq!(there.rooms[&room].shapes["r1"], (1, rect("r1", 1)));
    // It is another user's op only by name.
    let bob = world.person("bob");
    let mut bob = world.client(2, &bob).await;
    bob.join(room).await;
    let ack = bob.submit(room, "op-1", &json!({"kind": "room.clear"})).await;
    assert_eq!((&ack["type"], &ack["seq"], &ack["cleared"]), (&json!("ack"), &json!(2), &json!(1)), "{ack}");
}
