//! The rules of a room: each sentence of the wire by example, and what holds
//! for every sequence of submits.

mod properties;
mod rules;
mod tables;
