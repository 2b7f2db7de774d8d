//! Thin: the program is the library's `cli`.

use std::process::ExitCode;

// Millions of small, short-lived buffers over many threads; glibc's malloc keeps
// what it has freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    roomgate::cli::run()
}
