//! What a node does by itself, now and then. Every node does all of it: each
//! piece of work may be done twice, or by two at once, with the effect of once.

mod janitor;

pub use janitor::Janitor;
