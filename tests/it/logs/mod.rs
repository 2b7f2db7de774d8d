//! What a node's log says, and what it takes over of a changed configuration.

mod lines;
mod read;
mod reload;
