//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Compares cairnfs with backup programs, with plain copies, and with what FUSE and the CPU allow.
///
/// Needs about 15 GB of disk for the whole of it; --quick needs 2 GB and a few minutes. Root is needed to
/// drop the kernel's caches (or say --no-cold) and for btrfs.
#[derive(Parser)]
#[command(name = "cargo bench --bench backup --")]
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
    /// Where the corpora are kept once made [default: below the target directory]
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,

    /// Where stores and mounts are made and removed [default: the directory of the corpora]
    #[arg(long, value_name = "DIR", global = true)]
    pub work: Option<PathBuf>,

    /// Which corpora: tree, daily (the tree, in clones), image, random, sparse, creates
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub corpora: Vec<String>,

    /// Which contenders: cairnfs, before, floor, cp, restic, borg, rustic, btrfs, cpu
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub contenders: Vec<String>,

    /// Only the phases whose titles contain one of these, and the ingests that they need
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    pub phases: Vec<String>,

    /// How often everything is done; figures are medians [default: 3, with --quick 1]
    #[arg(long, value_name = "N", global = true)]
    pub runs: Option<usize>,

    /// One run over small corpora
    #[arg(long)]
    pub quick: bool,

    /// Leave out what needs cold caches
    #[arg(long)]
    pub no_cold: bool,

    /// The cairnfs program [default: the one just built]
    #[arg(long, value_name = "PATH")]
    pub cairnfs: Option<PathBuf>,

    /// An older cairnfs program, which takes part as `before`
    #[arg(long, value_name = "PATH")]
    pub before: Option<PathBuf>,

    /// Further mount options of cairnfs
    #[arg(long, value_name = "OPTIONS", default_value = "io_uring=auto")]
    pub mount_options: String,

    /// The Debian package that the source tree is made of
    #[arg(long, value_name = "NAME", default_value = "linux-source-6.1")]
    pub package: String,

    /// The zstd level of those who can be told
    #[arg(long, value_name = "LEVEL", default_value_t = 3)]
    pub level: i32,

    /// What the floor negotiates, if not what cairnfs does, such as threads=1,open=yes
    #[arg(long, value_name = "CHOICES", default_value = "")]
    pub floor: String,

    /// Also print how many requests of each kind a file cost on the floor
    #[arg(long, global = true)]
    pub count_requests: bool,

    /// Also write every single figure to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measures what each choice a FUSE daemon has is worth, on the floor
    Negotiate {
        /// A tree of small files, on a fast filesystem
        source: PathBuf,
        /// Only the variants whose names contain one of these
        #[arg(long, value_name = "WORDS", value_delimiter = ',')]
        only: Vec<String>,
    },
    #[command(hide = true)]
    Floor { mount: PathBuf, choices: String },
    #[command(hide = true)]
    Create { dir: PathBuf, files: u32 },
    #[command(hide = true)]
    Keeper { work: PathBuf },
}
