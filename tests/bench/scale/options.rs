//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::synthetic::Size;

/// How time and memory grow with a store: stores of the sizes asked for are made of rows, and each is opened and
/// collected in processes of their own.
///
/// A chunk takes about 130 bytes of disk below the work directory, a file about 200; while some is freed, about half
/// as much again. 10^8 chunks need 15 GB and 10 minutes of CPU.
#[derive(Parser)]
#[command(name = "cargo bench --bench scale --")]
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
    /// Chunks of each store, such as 1e6,1e7,1e8
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = number, default_value = "1e5,3e5,1e6")]
    pub chunks: Vec<u64>,

    /// Files of each store; one number stands for all stores
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = number, default_value = "1e4,3e4,1e5")]
    pub files: Vec<u64>,

    /// Snapshots of each store, at least as many as copies times garbage; one number stands for all stores
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = number, default_value = "100")]
    pub snapshots: Vec<u64>,

    /// Snapshots in a row with the same content: so many times more references than chunks
    #[arg(long, value_name = "N", value_parser = number, default_value = "1")]
    pub copies: u64,

    /// The first cycle frees one chunk in so many, at least 2
    #[arg(long, value_name = "N", value_parser = number, default_value = "10")]
    pub garbage: u64,

    /// Entries of the large directory; 0 leaves it out
    #[arg(long, value_name = "N", value_parser = number, default_value = "1e5")]
    pub directory: u64,

    /// Bytes of the large file; 0 leaves it out
    #[arg(long, value_name = "BYTES", value_parser = number, default_value = "1e11")]
    pub file: u64,

    /// Snapshots of one tree, each a clone of the one before; 0 leaves it out
    #[arg(long, value_name = "N", value_parser = number, default_value = "50")]
    pub days: u64,

    /// Files of that tree
    #[arg(long, value_name = "N", value_parser = number, default_value = "2e4")]
    pub tree: u64,

    /// Files of it that change from one snapshot to the next
    #[arg(long, value_name = "N", value_parser = number, default_value = "100")]
    pub changed: u64,

    /// Seconds for which an idle mount is watched; 0 leaves out everything that needs a mount
    #[arg(long, value_name = "SECONDS", value_parser = number, default_value = "10")]
    pub idle: u64,

    /// Where stores are made and removed [default: below the target directory]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,

    /// Print what the children say as well, one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What a child process does; it says what it measured on its standard output.
#[derive(Subcommand)]
pub enum Command {
    #[command(hide = true)]
    Build {
        dir: PathBuf,
        #[command(flatten)]
        size: SizeArgs,
    },
    #[command(hide = true)]
    Open {
        dir: PathBuf,
        #[arg(long)]
        kill: bool,
    },
    #[command(hide = true)]
    Cycle { dir: PathBuf },
    #[command(hide = true)]
    Directory {
        dir: PathBuf,
        #[command(flatten)]
        size: SizeArgs,
    },
    #[command(hide = true)]
    MakeFile {
        dir: PathBuf,
        bytes: u64,
        #[arg(long)]
        sparse: bool,
    },
    #[command(hide = true)]
    File { dir: PathBuf },
    #[command(hide = true)]
    History { dir: PathBuf, files: u64, days: u64, changed: u64 },
    #[command(hide = true)]
    Keeper { work: PathBuf },
}

#[derive(Args)]
pub struct SizeArgs {
    pub files: u64,
    pub chunks: u64,
    pub snapshots: u64,
    pub copies: u64,
    pub garbage: u64,
}

impl SizeArgs {
    pub fn size(&self) -> Size {
        let Self { files, chunks, snapshots, copies, garbage } = *self;
        Size { files, chunks, snapshots, copies, garbage }
    }
}

impl Run {
    /// The stores that are wanted.
    pub fn sizes(&self) -> Result<Vec<Size>, String> {
        let at = |name: &str, list: &[u64], index: usize| match (list, list.get(index)) {
            ([one], _) => Ok(*one),
            (_, Some(number)) => Ok(*number),
            _ => Err(format!("--{name} has {} numbers and --chunks {}", list.len(), self.chunks.len())),
        };
        let size = |(index, &chunks): (usize, &u64)| {
            let size = Size {
                files: at("files", &self.files, index)?,
                chunks,
                snapshots: at("snapshots", &self.snapshots, index)?,
                copies: self.copies.max(1),
                garbage: self.garbage.max(2),
            };
            if size.snapshots < size.garbage * size.copies {
                return Err("--snapshots must be --garbage times --copies: one content in so many is freed"
                    .to_owned());
            }
            if size.files < size.snapshots {
                return Err("--files must not be less than --snapshots".to_owned());
            }
            Ok(size)
        };
        self.chunks.iter().enumerate().map(size).collect()
    }
}

/// A number as people write large ones: 1000000, 1_000_000, 1e6.
fn number(text: &str) -> Result<u64, String> {
    let plain = text.replace('_', "");
    let parsed = plain.parse().ok().or_else(|| {
        let large = plain.parse::<f64>().ok()?;
        ((0.0..1e18).contains(&large) && large.fract() == 0.0).then_some(large as u64)
    });
    parsed.ok_or_else(|| format!("{text} is not a whole number such as 1000000 or 1e6"))
}
