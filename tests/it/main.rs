//! Integration tests: real PostgreSQL, Redis and nodes, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails; helpers of tests are not seen as tests")]

mod append;
