//! A holder of the password of Redis forges events.

use crate::forged::shown_of;

const FORGED: usize = 100;

#[tokio::test]
#[ignore = "an attack, with figures: `make attacks`"]
async fn forged_events_are_shown_only_where_unsigned_is_accepted() {
    let accepted = shown_of(FORGED, "accept").await;
    let refused = shown_of(FORGED, "refuse").await;
    println!("of {FORGED} forged events a member was shown: {accepted} without seals, {refused} with seals");
    assert!(accepted > 0, "the control shows that the attack works");
    assert_eq!(refused, 0);
}
