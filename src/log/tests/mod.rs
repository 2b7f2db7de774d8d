//! The rules of a room: each sentence of the wire by example, and what holds
//! for every sequence of submits.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod rules;
pub mod tables;
