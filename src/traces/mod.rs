//! Traces of submits, over OTLP: the frame that brought one, the transaction
//! that committed it, and its delivery on each node that has its room live.
//!
//! Without the feature `otlp` all types here are empty and all calls nothing.
//! With it a submit that isn't sampled costs one random number. Whatever goes
//! wrong with a trace, it is dropped: nothing waits for it.

#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod on;

#[cfg(not(feature = "otlp"))]
pub use off::{Awaited, Carried, Trace, Traces};
#[cfg(feature = "otlp")]
pub use on::{Awaited, Carried, Trace, Traces};
