//! The program `cairnfs`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cairnfs::cli::main(std::env::args_os())
}
