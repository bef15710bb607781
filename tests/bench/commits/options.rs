//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What it costs that something is durable: bytes and syncs of a commit, fsyncs, transactions and commits a second, and
/// opening after a kill.
#[derive(Parser)]
#[command(name = "cargo bench --bench commits --")]
pub struct Options {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub run: Run,

    /// What cargo adds.
    #[arg(long, hide = true, global = true)]
    pub bench: bool,
}

#[derive(Args)]
pub struct Run {
    /// How often each is done, in turns
    #[arg(long, value_name = "N", default_value = "5")]
    pub rounds: usize,

    /// Files that are made with an fsync each, by all writers together
    #[arg(long, value_name = "N", default_value = "2000")]
    pub files: u64,

    /// Transactions of SQLite
    #[arg(long, value_name = "N", default_value = "2000")]
    pub transactions: u64,

    /// Commits of git
    #[arg(long, value_name = "N", default_value = "50")]
    pub commits: u64,

    /// Stores of rows in which bytes and syncs are counted as well, such as 1000000,10000000: 130 bytes of disk each
    #[arg(long, value_name = "CHUNKS,...", value_delimiter = ',', default_value = "1000000")]
    pub chunks: Vec<u64>,

    /// Leave out what is done a second
    #[arg(long)]
    pub no_rates: bool,

    /// The program to measure [default: the one that was built with this]
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,

    /// An older one to compare with
    #[arg(long, value_name = "PATH")]
    pub before: Option<PathBuf>,

    /// Where stores are made and removed; its filesystem is the host's [default: below the target directory]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
}

/// What a child process does.
#[derive(Subcommand)]
pub enum Command {
    #[command(hide = true)]
    Build { dir: PathBuf, chunks: u64 },
    #[command(hide = true)]
    Keeper { work: PathBuf },
}
