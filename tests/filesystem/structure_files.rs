//! Imports between the files of one room go one way: two files that need each other are one, or lack a third below them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module: the names that lead to it below `src`.
pub type Module = Vec<String>;

/// The files of a room, by their modules, without their unit tests and comments.
fn files(room: &str) -> BTreeMap<Module, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut dirs = vec![src.join(room)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let below = path.strip_prefix(&src).unwrap().with_extension("");
            let mut module: Module = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            module.pop_if(|last| last == "mod");
            if module.last().is_some_and(|last| last == "tests") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().take_while(|line| !line.starts_with("mod tests {"));
            let code = code.filter(|line| !line.trim_start().starts_with("//"));
            found.insert(module, code.collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

/// The paths that `use` statements name, one for each name. What a file only passes on to others (`pub use`) it does
/// not need itself.
pub fn imports(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let statement = statement.trim();
        let start = statement.rfind("\nuse ").map_or(0, |at| at + 1);
        if let Some(tree) = statement[start..].strip_prefix("use ") {
            expand("", tree, &mut paths);
        }
    }
    paths
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{before}{}", tree.trim()));
        return;
    };
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut start) = (0, 0);
    let before = format!("{before}{}", head.trim());
    for (at, byte) in inner.bytes().chain([b',']).enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                let part = inner[start..at].trim();
                if !part.is_empty() {
                    expand(&before, part, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The file that a path leads to from `here`.
pub fn target(here: &Module, path: &str, files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut words: Vec<&str> = path.split("::").map(str::trim).collect();
    let mut base = here.clone();
    match words[0] {
        "crate" => {
            base.clear();
            words.remove(0);
        }
        "self" => {
            words.remove(0);
        }
        "super" => {}
        // A module below this one, or another crate.
        first => {
            let below: Module = here.iter().cloned().chain([first.to_owned()]).collect();
            files.get(&below)?;
        }
    }
    while words.first() == Some(&"super") {
        base.pop();
        words.remove(0);
    }
    base.extend(words.into_iter().map(str::to_owned));
    while !base.is_empty() && !files.contains_key(&base) {
        base.pop();
    }
    (!base.is_empty() && base != *here).then_some(base)
}

/// Everything that can be reached from a file.
fn reached(from: &Module, arrows: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![from.clone()]);
    while let Some(module) = todo.pop() {
        for next in arrows.get(&module).into_iter().flatten() {
            if seen.insert(next.clone()) {
                todo.push(next.clone());
            }
        }
    }
    seen
}

/// The folders below `src`.
fn rooms() -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = fs::read_dir(src).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    folders.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn files_of_a_room_import_each_other_one_way() {
    let (mut circles, mut count) = (Vec::new(), 0);
    for room in rooms() {
        let files = files(&room);
        let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, code) in &files {
            let to = imports(code).into_iter().filter_map(|path| target(module, &path, &files));
            arrows.entry(module.clone()).or_default().extend(to);
        }
        count += arrows.values().map(BTreeSet::len).sum::<usize>();
        for module in files.keys() {
            if reached(module, &arrows).contains(module) {
                circles.push(module.join("/"));
            }
        }
    }
    assert!(count > 200, "the sources were read: {count} imports");
    assert!(circles.is_empty(), "these files need each other: {circles:?}");
}

#[test]
fn every_form_of_an_import_is_seen() {
    let code = "mod a;\nuse super::{b::{C, d}, e};\npub use f::G;\nuse crate::x::y::Z;\nfn g() {}";
    assert_eq!(imports(code), ["super::b::C", "super::b::d", "super::e", "crate::x::y::Z"]);
    let module = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Module>();
    let files: BTreeMap<_, _> =
        [&["s"][..], &["s", "b"], &["s", "e"]].map(|words| (module(words), String::new())).into();
    let here = module(&["s", "a"]);
    assert_eq!(target(&here, "super::b::C", &files), Some(module(&["s", "b"])));
    assert_eq!(target(&here, "super::X", &files), Some(module(&["s"])));
    assert_eq!(target(&here, "crate::s::e", &files), Some(module(&["s", "e"])));
    assert_eq!(target(&here, "std::fs", &files), None);
}
