//! The tree of versions.
//!
//! Keeps true: a child has a smaller number than its parent, so numbers rise on the way up. Each version also knows one
//! far above it, so that the way up is made in steps whose number grows with the logarithm of its length (Myers, "An
//! applicative random-access stack", 1983): a chain of a clone an hour for ten years has 87,600 versions.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// A number in the key of a row. None is ever given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// The first version of a store: the greatest.
pub const FIRST_VERSION: u64 = 1 << 62;

impl Version {
    /// Above all others; no row has it.
    pub const MAX: Version = Version(u64::MAX);
}

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: Option<Version>,
    /// A version above it, or itself at the top.
    jump: Version,
    depth: u64,
}

/// Which version is below which.
#[derive(Debug, Default, Clone)]
pub struct VersionTree {
    nodes: HashMap<Version, Node>,
}

impl VersionTree {
    /// The tree of these versions and their parents, in any order.
    pub fn of(rows: impl IntoIterator<Item = (Version, Option<Version>)>) -> Result<Self> {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
        let mut tree = Self::default();
        for (version, parent) in rows {
            tree.add(version, parent)?;
        }
        Ok(tree)
    }

    /// Adds a version below `parent`.
    pub fn add(&mut self, version: Version, parent: Option<Version>) -> Result<()> {
        let node = match parent {
            None => Node { parent, jump: version, depth: 0 },
            Some(above) if above <= version => {
                let (above, version) = (above.0, version.0);
                return Err(Error::damaged(format!("version {version} is said to be below {above}")));
            }
            Some(above) => {
                let up = self.node(above)?;
                let far = self.node(up.jump)?;
                // The jumps of the parent are of equal length: they are made one.
                let jump = if up.depth - far.depth == far.depth - self.node(far.jump)?.depth {
                    far.jump
                } else {
                    above
                };
                Node { parent, jump, depth: up.depth + 1 }
            }
        };
        if self.nodes.insert(version, node).is_some() {
            return Err(Error::damaged(format!("version {} is there twice", version.0)));
        }
        Ok(())
    }

    fn node(&self, version: Version) -> Result<&Node> {
        let node = self.nodes.get(&version);
        node.ok_or_else(|| Error::damaged(format!("version {} is missing", version.0)))
    }

    /// The parent of a version, which must be there.
    pub fn parent(&self, version: Version) -> Result<Option<Version>> {
        self.node(version).map(|node| node.parent)
    }

    /// Is it there?
    pub fn has(&self, version: Version) -> bool {
        self.nodes.contains_key(&version)
    }

    /// All versions with their parents, children before parents.
    pub fn upwards(&self) -> Vec<(Version, Option<Version>)> {
        let mut all: Vec<_> = self.nodes.iter().map(|(version, node)| (*version, node.parent)).collect();
        all.sort_unstable();
        all
    }

    /// The first version on the way up from `version`, itself included, whose number is `from` or more.
    pub fn first_from(&self, version: Version, from: Version) -> Result<Option<Version>> {
        let mut at = version;
        while at < from {
            let node = self.node(at)?;
            at = match node.parent {
                None => return Ok(None),
                Some(_) if node.jump < from => node.jump,
                Some(parent) => parent,
            };
        }
        self.node(at).map(|_| Some(at))
    }

    /// Is `above` on the way up from `version`, itself included?
    pub fn is_above(&self, above: Version, version: Version) -> Result<bool> {
        Ok(self.first_from(version, above)? == Some(above))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a walk from parent to parent.
        #[test]
        fn the_way_up_is_that_of_the_parents(choices in prop::collection::vec(any::<u16>(), 1..200)) {
            let number = |index: usize| Version(1_000 - index as u64);
            let mut tree = VersionTree::default();
            tree.add(number(0), None).unwrap();
            let mut parents = vec![None];
            for (index, choice) in choices.iter().enumerate() {
                // Mostly chains.
                let parent = if choice % 4 > 0 { index } else { usize::from(choice / 4) % (index + 1) };
                tree.add(number(index + 1), Some(number(parent))).unwrap();
                parents.push(Some(parent));
            }
            for start in 0..parents.len() {
                let mut way = vec![start];
                while let Some(parent) = parents[way[way.len() - 1]] {
                    way.push(parent);
                }
                for from in 0..parents.len() {
                    let wanted = way.iter().map(|index| number(*index)).find(|version| *version >= number(from));
                    prop_assert_eq!(tree.first_from(number(start), number(from)).unwrap(), wanted);
                    prop_assert_eq!(tree.is_above(number(from), number(start)).unwrap(), way.contains(&from));
                }
            }
            let again = VersionTree::of(tree.upwards()).unwrap();
            prop_assert_eq!(again.upwards(), tree.upwards());
        }
    }

    #[test]
    fn a_long_way_up_is_short() {
        let mut tree = VersionTree::default();
        let last = 87_600;
        for number in (1..=last).rev() {
            tree.add(Version(number), (number < last).then(|| Version(number + 1))).unwrap();
        }
        let mut steps = 0;
        let (mut at, from) = (Version(1), Version(last));
        while at < from {
            let node = tree.node(at).unwrap();
            at = if node.jump <= from { node.jump } else { node.parent.unwrap() };
            steps += 1;
        }
        assert!(steps < 60, "{steps}");
    }

    #[test]
    fn what_is_no_tree_is_damage() {
        let (one, two) = (Version(1), Version(2));
        for wrong in
            [vec![(one, Some(two))], vec![(two, Some(one)), (one, None)], vec![(one, None), (one, None)]]
        {
            assert!(VersionTree::of(wrong.clone()).is_err(), "{wrong:?}");
        }
        let tree = VersionTree::of([(two, None), (one, Some(two))]).unwrap();
        assert!(tree.first_from(Version(0), two).is_err(), "a version that is missing is above nothing");
    }
}
