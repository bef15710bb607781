//! No test is green without having run: what lets one end early is `tests/mount/skip.rs` alone, which is a failure in CI.

use std::collections::BTreeSet;

use crate::structure::test_sources;

/// The functions of `skip.rs` that answer whether something is there.
const NEEDS: [&str; 6] =
    ["need(", "need_kernel(", "need_root(", "need_programs(", "need_rings(", "need_fuse("];

/// Who may look at the host without them: they themselves, what is not a test, the test of hundreds of millions of states
/// that is for a night, and this.
const MAY_LOOK: [&str; 5] =
    ["mount/skip.rs", "mount/sys.rs", "bench/", "model/main.rs", "filesystem/structure_skips.rs"];

/// Ways to find out what a host has, or to say that something did not run.
const LOOKS: [&str; 4] = ["is_root()", "\"skipped: ", "open(\"/dev/fuse\")", "#[ignore"];

/// A function of a source: how it is called, whether it is a test, its lines with their numbers.
struct Function<'a> {
    called: String,
    is_test: bool,
    lines: Vec<(usize, &'a str)>,
}

impl Function<'_> {
    /// The type it belongs to, with `::`; empty for a function of the module.
    fn owner(&self) -> &str {
        self.called.rfind("::").map_or("", |at| &self.called[..at + 2])
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The functions of a source that is formatted: each ends with a bracket below its `fn`.
fn functions(text: &str) -> Vec<Function<'_>> {
    let (mut found, mut owner, mut is_test) = (Vec::<Function>::new(), String::new(), false);
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line)).peekable();
    while let Some((number, line)) = lines.next() {
        if let Some(head) = line.strip_prefix("impl").filter(|_| line.ends_with('{')) {
            let name = head.rsplit(" for ").next().unwrap_or(head).trim_start_matches("<'_>").trim();
            owner = name.chars().take_while(|c| c.is_alphanumeric()).collect::<String>() + "::";
        } else if line == "}" {
            owner.clear();
        }
        is_test |= line.trim() == "#[test]";
        let head = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let Some(name) = head.strip_prefix("fn ") else { continue };
        let called = owner.clone() + name.split(['(', '<']).next().unwrap_or_default() + "(";
        let mut function = Function { called, is_test, lines: vec![(number, line)] };
        is_test = false;
        let is_short = line.ends_with('}');
        while let Some(&(number, next)) = lines.peek().filter(|_| !is_short) {
            function.lines.push((number, next));
            if indent(next) == indent(line) && next.trim_start() == "}" {
                lines.next();
                break;
            }
            lines.next();
        }
        found.push(function);
    }
    found
}

/// True if one of `names` is called in the text: not as the end of a longer name.
fn calls(text: &str, names: &BTreeSet<String>) -> bool {
    names.iter().any(|name| {
        text.match_indices(name.as_str())
            .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

/// The functions by which something that is missing comes to an end: those of `skip.rs` and all that call them, directly
/// or not, and hand the answer on.
fn gates(all: &[Function]) -> BTreeSet<String> {
    let mut gates: BTreeSet<String> = NEEDS.map(str::to_owned).into();
    loop {
        let more: Vec<_> = all
            .iter()
            .filter(|function| !function.is_test && !gates.contains(&function.called))
            .filter(|function| {
                let head =
                    function.lines.iter().map(|(_, line)| *line).take_while(|line| !line.contains(" {"));
                let hands_on =
                    head.chain([function.lines[0].1]).any(|l| l.contains("Option<") || l.contains("-> bool"));
                hands_on
                    && function
                        .lines
                        .iter()
                        .any(|(_, line)| calls(&line.replace("Self::", function.owner()), &gates))
            })
            .map(|function| function.called.clone())
            .collect();
        if more.is_empty() {
            return gates;
        }
        gates.extend(more);
    }
}

/// The places where a test of this source ends early, and not by one of the gates.
fn early_ends(file: &str, text: &str, gates: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for function in functions(text).iter().filter(|function| function.is_test) {
        for (at, (number, line)) in function.lines.iter().enumerate() {
            if !["return;", "{ return }", "return println"].iter().any(|end| line.contains(end)) {
                continue;
            }
            // Up to the head of the block that it ends.
            let above = function.lines[..=at].iter().rev();
            let mut statement = String::new();
            for (_, line) in above {
                statement.insert_str(0, line);
                if ["if ", "let ", "for ", "while ", "match "]
                    .iter()
                    .any(|word| line.trim().starts_with(word))
                {
                    break;
                }
            }
            if !calls(&statement, gates) {
                found.push(format!("{file}:{number}: {} ends early: {}", function.called, line.trim()));
            }
        }
    }
    found
}

/// The lines that look at the host by themselves.
fn own_looks(file: &str, text: &str) -> Vec<String> {
    if MAY_LOOK.iter().any(|place| file.starts_with(place)) {
        return Vec::new();
    }
    let looks =
        |line: &str| !line.trim_start().starts_with("//") && LOOKS.iter().any(|look| line.contains(look));
    let lines = text.lines().enumerate().filter(|(_, line)| looks(line));
    lines.map(|(n, line)| format!("{file}:{}: {}", n + 1, line.trim())).collect()
}

#[test]
fn no_test_goes_without_running_but_by_the_one_way() {
    let sources = test_sources();
    let all: Vec<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let (tests, gates) = (all.iter().filter(|function| function.is_test).count(), gates(&all));
    assert!(tests > 200, "the tests were read: {tests}");
    for known in ["World::new(", "World::usual(", "find("] {
        assert!(gates.contains(known), "{known} asks for what it needs");
    }
    let mut wrong = Vec::new();
    for (file, text) in sources.iter().filter(|(file, _)| !file.ends_with("structure_skips.rs")) {
        wrong.extend(own_looks(file, text));
        wrong.extend(early_ends(file, text, &gates));
    }
    assert!(wrong.is_empty(), "ask by a function of tests/mount/skip.rs instead:\n{}", wrong.join("\n"));
}

#[test]
fn a_test_that_ends_early_by_itself_is_seen() {
    let text = "fn made() -> Option<u8> {\n    need_root(\"x\").then_some(1)\n}\n\n#[test]\nfn a() {\n    let Some(_) = made() else \
                { return };\n}\n\n#[test]\nfn b() {\n    if cfg!(windows) {\n        return;\n    }\n}\n\n#[test]\nfn c() {\n    \
                if !need_root(\"x\") {\n        return;\n    }\n}\n";
    let ends = early_ends("f.rs", text, &gates(&functions(text)));
    assert_eq!(ends, ["f.rs:13: b( ends early: return;"]);
    assert_eq!(
        own_looks("mount/f.rs", "if !sys::is_root() {\n    println!(\"skipped: x\");\n// is_root()").len(),
        2
    );
}
