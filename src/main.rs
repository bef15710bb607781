//! The program `cairnfs`; everything it does is in the library.

use std::process::ExitCode;

/// The system's gives buffers of some MiB back to the kernel and faults them in again, which costs a large stream a fifth
/// of its time: `docs/decisions/0011-large-streams.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cairnfs::cli::main(std::env::args_os())
}
