//! A view says what one map of all rows says, however the changes stand above each other.

use proptest::prelude::*;

use super::*;
use crate::media::Media;
use crate::media::sim::SimMedia;
use crate::meta::{Kv, Memtable};

type Map = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Keys of one length, as [`View::last`] wants them.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 255]), 2)
}

fn map() -> impl Strategy<Value = Map> {
    prop::collection::btree_map(
        key(),
        prop::option::weighted(0.6, prop::collection::vec(any::<u8>(), 0..3)),
        0..12,
    )
}

fn run(map: &Map) -> Arc<Run> {
    let table = Memtable::default();
    for (key, value) in map {
        match value {
            Some(value) => table.put(Table::Extents, key, value),
            None => table.delete(Table::Extents, key),
        }
    }
    Arc::new(Run::of(None, &table))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_view_says_what_one_map_says(base in map(), above in prop::collection::vec(map(), 0..5), asked in prop::collection::vec((key(), key()), 20)) {
        let rows: Vec<_> = base.iter().filter_map(|(key, value)| Some((Table::Extents, &key[..], value.as_deref()?))).collect();
        let media = SimMedia::new();
        Kv::create(media.create("db").unwrap(), &rows).unwrap();
        let kv = Kv::open(media.open("db", true).unwrap(), 1 << 20).unwrap();
        let view = View::new(Arc::new(kv.read().unwrap()), above.iter().map(run).collect());
        let mut all = base.clone();
        above.into_iter().for_each(|map| all.extend(map));
        all.retain(|_, value| value.is_some());
        for (from, to) in &asked {
            prop_assert_eq!(view.get(Table::Extents, from).unwrap(), all.get(from).cloned().flatten());
            let within = |key: &&Vec<u8>| (from..=to).contains(key);
            let last = all.iter().rev().find(|(key, _)| within(key)).map(|(key, value)| (key.clone(), value.clone().unwrap()));
            prop_assert_eq!(view.last(Table::Extents, from, to).unwrap(), last);
            let mut scanned = Vec::new();
            view.scan(Table::Extents, Bound::Included(from), Bound::Excluded(to), |key, value| {
                scanned.push((key.to_vec(), value.to_vec()));
                Ok(true)
            }).unwrap();
            let wanted: Vec<_> = all.iter().filter(|(key, _)| from <= key && *key < to).map(|(key, value)| (key.clone(), value.clone().unwrap())).collect();
            prop_assert_eq!(scanned, wanted);
        }
    }
}
