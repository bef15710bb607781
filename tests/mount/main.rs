//! The real program on real mounts.
//!
//! Each test makes a store of its own, mounts it with the program under test, works in the mount with the tools that
//! people use, and unmounts. Where a test needs a cycle to stand still it holds it at a pause point, never with a
//! sleep: those tests need the feature `sim`. What is missing on a machine is told by `skip.rs`, which is a
//! failure in CI.
//!
//! `cargo test --features sim --test mount -- --nocapture` runs all of them and prints the advisory's table.

mod calls;
mod data;
#[cfg(feature = "sim")]
mod neighbours;
mod pause;
#[path = "../filesystem/seed.rs"]
#[allow(dead_code)]
mod seed;
mod skip;
mod subvolumes;
mod sys;
mod world;

#[cfg(feature = "sim")]
mod advisory;
mod backup;
mod beside;
mod both_ways;
#[cfg(feature = "sim")]
mod classes;
mod clone_pages;
mod clones;
mod control;
mod crash;
mod edges;
mod full;
mod golden;
mod groups;
mod handles;
mod heal;
mod helpers;
#[cfg(feature = "sim")]
mod hosts;
mod leave;
mod listing;
mod ls;
mod mapped;
#[cfg(feature = "sim")]
mod memory;
#[cfg(feature = "sim")]
mod owner;
mod posix;
mod posix_names;
mod programs;
mod programs_images;
mod protect;
mod refuse;
mod remount;
mod resume;
#[cfg(feature = "sim")]
mod sabotage;
mod together;
mod transport;
mod trash;
