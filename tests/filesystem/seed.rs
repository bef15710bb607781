//! Seeds of tests that do something at random: the same ones each time, so that what is known stays known, and a fresh one,
//! so that not always the same is tried. All are printed, and `CAIRNFS_SEED=N` brings one back in every test.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// The seed that the environment asks for.
pub fn wanted() -> Option<u64> {
    let word = std::env::var("CAIRNFS_SEED").ok()?;
    Some(word.parse().unwrap_or_else(|_| panic!("CAIRNFS_SEED: {word:?} is no number")))
}

/// A seed that nobody has used: short enough to be typed.
pub fn fresh() -> u64 {
    RandomState::new().hash_one("seed") >> 36
}

/// The seed of a test that has only one, such as a negative control: from `CAIRNFS_SEED`, or else this one.
pub fn seed(test: &str, otherwise: u64) -> u64 {
    let seed = wanted().unwrap_or(otherwise);
    println!("{test}: CAIRNFS_SEED={seed}");
    seed
}

/// The seeds of a test: `count` from `first` on and a fresh one, or with `CAIRNFS_SEED` the `count` from that on.
pub fn seeds(test: &str, first: u64, count: u64) -> Vec<u64> {
    if let Some(seed) = wanted() {
        println!("{test}: CAIRNFS_SEED={seed}");
        return (seed..seed + count).collect();
    }
    let fresh = fresh();
    println!("{test}: CAIRNFS_SEED={first}, then CAIRNFS_SEED={fresh}, which nobody has tried");
    (first..first + count).chain([fresh]).collect()
}
