//! How large the parts of the program are, as a table of rooms and files, and bounds for it.
//!
//! ```text
//! cargo test --features sim --test filesystem the_table_of_rooms -- --nocapture
//! ```
//!
//! prints it. With `CAIRNFS_SOURCES=DIRECTORY` before the command it is of another checkout, of which the bounds are not
//! asked. Unit tests count nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::structure::rust_files;
use crate::structure_files::{Module, imports, target};

/// No struct has more fields, but for what is printed as a list of figures.
const MOST_FIELDS: usize = 16;
const LISTS_OF_FIGURES: [&str; 3] = ["RepairReport", "CycleRecord", "StoreStatus"];

/// No function has more lines, but for the one that puts the parts of a store together.
const MOST_LINES: usize = 75;
const PUTS_TOGETHER: &str = "assemble";

/// The largest of something, and what it is called.
#[derive(Default, Clone)]
struct Most {
    number: usize,
    name: String,
}

impl Most {
    fn see(&mut self, number: usize, name: &str) {
        if number > self.number {
            *self = Self { number, name: name.to_owned() };
        }
    }
}

impl std::fmt::Display for Most {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.number {
            0 => Ok(()),
            number => write!(f, "{number} {}", self.name),
        }
    }
}

/// What is counted of a file.
#[derive(Default)]
struct File {
    lines: usize,
    /// The fields of each struct.
    structs: BTreeMap<String, usize>,
    /// The methods of each type, without those of traits.
    methods: BTreeMap<String, usize>,
    longest: Most,
    /// Files that it imports.
    imports: BTreeSet<Module>,
}

/// What begins unit tests.
fn is_for_tests(line: &str) -> bool {
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,")
}

/// The sources of a checkout by their modules, without unit tests.
fn checkout(root: &Path) -> BTreeMap<Module, String> {
    let src = root.join("src");
    let (mut found, mut tests) = (BTreeMap::new(), BTreeSet::new());
    for (path, text) in rust_files(&src) {
        let below = path.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Module = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        module.pop_if(|last| last == "mod");
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| is_for_tests(pair[0])) {
            if let Some(name) = pair[1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                tests.insert(module.iter().cloned().chain([name.to_owned()]).collect::<Module>());
            }
        }
        let code: Vec<&str> = lines.into_iter().take_while(|line| !is_for_tests(line)).collect();
        found.insert(module, code.join("\n"));
    }
    found.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    found
}

/// The word behind `word ` where an item of that kind begins, at that depth of four spaces.
fn item<'a>(line: &'a str, depth: usize, word: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(&" ".repeat(4 * depth))?;
    let (before, after) = rest.split_once(&format!("{word} "))?;
    let is_prefix = |part: &str| {
        part.starts_with("pub")
            || part.starts_with("in ")
            || ["const", "async", "unsafe", "extern"].contains(&part)
    };
    let is_item = before.is_empty() || before.ends_with(' ') && before.split_whitespace().all(is_prefix);
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
    (is_item && end > 0).then(|| &after[..end])
}

/// The type of an `impl` block that is not of a trait.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    if rest.contains(" for ") || !rest.starts_with([' ', '<']) {
        return None;
    }
    // What is generic stands in brackets that close before the name.
    let mut depth = 0;
    let at = rest.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '<') - i32::from(*c == '>');
        depth == 0 && *c == ' '
    })?;
    let name = rest[at.0..].trim_start();
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end])
}

fn measured(text: &str) -> File {
    let mut file = File { lines: text.lines().count(), ..File::default() };
    let (mut in_struct, mut in_impl) = (None::<&str>, None::<&str>);
    let mut function = None::<(&str, usize, &str)>;
    for (number, line) in text.lines().enumerate() {
        if line == "}" {
            (in_struct, in_impl) = (None, None);
        }
        if let Some(name) = item(line, 0, "struct").filter(|_| line.ends_with('{')) {
            in_struct = Some(name);
        } else if line.starts_with("impl") {
            in_impl = implemented(line);
        }
        let field = line.strip_prefix("    ").filter(|rest| !rest.starts_with([' ', '/', '#', '}']));
        if let (Some(name), Some(true)) = (in_struct, field.map(|rest| rest.contains(": "))) {
            *file.structs.entry(name.to_owned()).or_default() += 1;
        }
        if let (Some(name), Some(_)) = (in_impl, item(line, 1, "fn")) {
            *file.methods.entry(name.to_owned()).or_default() += 1;
        }
        match &function {
            None => {
                let indent = if line.starts_with(' ') { "    " } else { "" };
                let name = item(line, indent.len() / 4, "fn").filter(|_| !line.ends_with(['}', ';']));
                function = name.map(|name| (name, number, indent));
            }
            // A function of a trait has no body.
            Some((name, began, indent))
                if line == format!("{indent}}}")
                    || line.starts_with(&format!("{indent})")) && line.ends_with(';') =>
            {
                file.longest.see(number - began + 1, name);
                function = None;
            }
            Some(_) => {}
        }
    }
    file
}

/// All files of a checkout.
fn table(root: &Path) -> BTreeMap<Module, File> {
    let texts = checkout(root);
    let mut files = BTreeMap::new();
    for (module, text) in &texts {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        let mut file = measured(text);
        file.imports = imports(&code).into_iter().filter_map(|path| target(module, &path, &texts)).collect();
        files.insert(module.clone(), file);
    }
    files
}

/// What a room comes to: its types are counted over all its files.
#[derive(Default)]
struct Room {
    files: usize,
    lines: usize,
    longest: Most,
    fields: Most,
    methods: Most,
    /// Files in which the type with the most methods has them.
    spread: usize,
    rooms: BTreeSet<String>,
    inside: usize,
    both_ways: usize,
}

fn room(name: &str, files: &BTreeMap<Module, File>) -> Room {
    let mut room = Room::default();
    let mut methods: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (module, file) in files.iter().filter(|(module, _)| module.first().is_some_and(|first| first == name))
    {
        room.files += 1;
        room.lines += file.lines;
        room.longest.see(file.longest.number, &file.longest.name);
        file.structs.iter().for_each(|(name, fields)| room.fields.see(*fields, name));
        for (name, number) in &file.methods {
            let all = methods.entry(name).or_default();
            *all = (all.0 + number, all.1 + 1);
        }
        for other in &file.imports {
            if other[0] != name {
                room.rooms.insert(other[0].clone());
                continue;
            }
            room.inside += 1;
            room.both_ways += usize::from(files[other].imports.contains(module));
        }
    }
    if let Some((name, (number, spread))) = methods.into_iter().max_by_key(|(_, (number, _))| *number) {
        room.methods = Most { number, name: name.to_owned() };
        room.spread = spread;
    }
    // Each pair was seen from both sides.
    room.both_ways /= 2;
    room
}

fn print(files: &BTreeMap<Module, File>) {
    println!(
        "| room | files | lines | longest function, lines | widest struct, fields | most methods, in files | imports inside, both ways | rooms imported |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let names: BTreeSet<&str> = files.keys().filter_map(|module| Some(module.first()?.as_str())).collect();
    for name in names {
        let Room { files, lines, longest, fields, methods, spread, rooms, inside, both_ways } =
            room(name, files);
        println!(
            "| {name} | {files} | {lines} | {longest} | {fields} | {methods}, {spread} | {inside}, {both_ways} | {} |",
            rooms.len()
        );
    }
    println!(
        "\n| file | lines | longest function, lines | widest struct, fields | methods | files imported |"
    );
    println!("|---|---|---|---|---|---|");
    for (module, file) in files {
        let mut fields = Most::default();
        file.structs.iter().for_each(|(name, number)| fields.see(*number, name));
        let methods: usize = file.methods.values().sum();
        println!(
            "| {} | {} | {} | {fields} | {methods} | {} |",
            module.join("/"),
            file.lines,
            file.longest,
            file.imports.len()
        );
    }
}

#[test]
fn the_table_of_rooms() {
    let other = std::env::var_os("CAIRNFS_SOURCES").map(PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = table(other.as_deref().unwrap_or(own));
    assert!(files.len() > 100, "the sources were read");
    print(&files);
    let too_large = if other.is_some() { Vec::new() } else { too_large(&files) };
    assert!(too_large.is_empty(), "{}", too_large.join("\n"));
}

/// What exceeds the bounds.
fn too_large(files: &BTreeMap<Module, File>) -> Vec<String> {
    let mut found = Vec::new();
    for (module, file) in files {
        let place = module.join("/");
        let structs =
            file.structs.iter().filter(|(name, _)| !LISTS_OF_FIGURES.iter().any(|list| list == name));
        for (name, fields) in structs.filter(|(_, fields)| **fields > MOST_FIELDS) {
            found.push(format!("{place}: {name} has {fields} fields"));
        }
        let Most { number, name } = &file.longest;
        if *number > MOST_LINES && name != PUTS_TOGETHER {
            found.push(format!("{place}: {name} has {number} lines"));
        }
    }
    found
}

#[test]
fn structs_methods_and_functions_are_counted() {
    let text = "\
/// A thing.
pub(super) struct Thing<'a> {
    /// Its name.
    pub name: &'a str,
    #[serde(default)]
    pub(in crate::x) size: u64,
}
struct Unit;
struct Pair(u32, u32);
impl<'a, T: Into<Vec<u8>>> Thing<'a, T> {
    const fn size(&self) -> u64 { self.size }
    pub fn long(
        &self,
    ) -> u64 {
        let x = Struct { a: 1 };
        if x {
        }
        1
    }
}
impl Drop for Thing<'_> {
    fn drop(&mut self) {}
}
pub fn free() {
    body();
}";
    let file = measured(text);
    assert_eq!(file.structs, BTreeMap::from([("Thing".to_owned(), 2)]));
    assert_eq!(file.methods, BTreeMap::from([("Thing".to_owned(), 2)]));
    assert_eq!((file.longest.number, file.longest.name.as_str()), (8, "long"));
}
