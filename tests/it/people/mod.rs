//! People and rooms: what is stored of them, and what HTTP says of them.

mod accounts;
mod bodies;
mod changes;
mod described;
mod doors;
mod erased;
mod guesses;
mod half_closed;
mod half_made;
mod hosts;
mod imported;
mod invites;
mod keys;
mod lists;
mod members;
mod plans;
mod repeats;
mod rights;
mod rooms;
mod search_plan;
mod server;
mod signed_out;
mod stored;
mod submits;
mod trail;
mod world;
