//! A switch that takes a protection out stands in a function of its own, beside its use: the code that matters reads as
//! if there were none.

use std::path::Path;

use crate::structure::{code, is_test, sources};

/// Lines that the body of such a function may have.
const MOST_LINES: usize = 6;

/// Where the switches are still to be taken out of longer functions.
const NOT_YET: [&str; 2] = ["src/meta/", "src/store/commit/"];

/// The functions in which a switch stands, each with the lines of its body.
fn functions_with_switches(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<(usize, &str)> = code(text).collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, (_, line))| line.contains("out(Protection::")) {
        let is_head = |at: &usize| {
            let line = lines[*at].1.trim_start();
            line.starts_with("fn ") || line.starts_with("pub") && line.contains("fn ")
        };
        let head = (0..=at).rev().find(is_head).expect("a switch stands in a function");
        let is_end = |line: &str| line.trim_start() == "}" && depth(line) == depth(lines[head].1);
        let end = (at..lines.len()).find(|at| is_end(lines[*at].1)).expect("a function ends");
        let begin = (head..end).find(|at| lines[*at].1.ends_with('{')).expect("a body begins");
        let name = lines[head].1.split_once("fn ").expect("it is one").1.split(['(', '<']).next();
        found.push((name.unwrap_or_default(), end - begin - 1));
    }
    found
}

#[test]
fn each_switch_stands_in_a_short_function_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let file = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if NOT_YET.iter().any(|place| file.starts_with(place)) {
            continue;
        }
        for (function, lines) in functions_with_switches(text) {
            seen += 1;
            if lines > MOST_LINES {
                wrong.push(format!("{file}: {function} has {lines} lines"));
            }
        }
    }
    assert!(seen > 25, "the sources were read: {seen} switches");
    assert!(wrong.is_empty(), "a switch stands in the middle of these:\n{}", wrong.join("\n"));
}

#[test]
fn a_switch_in_the_middle_of_a_function_is_seen() {
    let text = "impl A {\n    fn long(\n        &self,\n    ) -> bool {\n        one();\n        if !out(Protection::Grace) {\n            \
                two();\n        }\n        true\n    }\n\n    fn short() -> bool {\n        !out(Protection::Grace)\n    }\n}\n";
    assert_eq!(functions_with_switches(text), [("long", 5), ("short", 1)]);
}
