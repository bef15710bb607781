//! What is said about mount options: in `cairnfs mount --help`, in the table of docs/operations.md, and to who writes a
//! word that is not known. A test compares the page with [`page`]; `CAIRNFS_DOCS=write` before it writes the page anew:
//!
//! ```text
//! CAIRNFS_DOCS=write cargo test --features sim --lib mount_options
//! ```

use super::table::{DefaultValue, MountOption, OPTIONS};

/// Where the meanings begin in the help.
const COLUMN: usize = 29;

/// The width of the help.
const WIDTH: usize = 110;

/// The forms of an option in one line each, those that differ only behind `=` in one: `ro`, `gc=auto|off`.
fn forms(option: &MountOption) -> Vec<String> {
    let mut forms: Vec<String> = Vec::new();
    for spelling in option.spellings {
        let same_name = format!("{}=", spelling.name());
        match (forms.last_mut(), spelling.word.strip_prefix(&same_name)) {
            (Some(last), Some(value)) if last.starts_with(&same_name) => {
                last.push('|');
                last.push_str(value);
            }
            _ => forms.push(spelling.word.to_owned()),
        }
    }
    forms
}

/// The default as the documents name it; nothing for what has none.
fn default_of(option: &MountOption) -> &'static str {
    match option.default {
        DefaultValue::Word(text) | DefaultValue::Described(text) => text,
        DefaultValue::None => "",
    }
}

/// What an option means, with the details.
fn explanation(option: &MountOption) -> String {
    let sentences = [option.meaning, option.details];
    sentences.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(". ")
}

/// All words that are known, for the message about one that is not.
pub(in crate::cli) fn known() -> String {
    OPTIONS.iter().flat_map(forms).collect::<Vec<_>>().join(", ")
}

/// The words that `-o name=...` can be written as, for the message about a value that is none of them.
pub(super) fn written_as(name: &str) -> Option<String> {
    let spellings = OPTIONS.iter().flat_map(|option| option.spellings);
    let words: Vec<_> =
        spellings.filter(|s| s.name() == name && s.word != name).map(|spelling| spelling.word).collect();
    let (last, others) = words.split_last()?;
    Some(if others.is_empty() { (*last).to_owned() } else { format!("{} or {last}", others.join(", ")) })
}

/// The section of `--help`.
pub(in crate::cli) fn help() -> String {
    let mut text = String::from("Options for -o, separated by commas:\n");
    for option in OPTIONS {
        let words = format!("  {}", forms(option).join(", "));
        let default = default_of(option);
        let default = if default.is_empty() { String::new() } else { format!(" (default: {default})") };
        let meaning = format!("{}{default}", explanation(option));
        let mut line = format!("{words:COLUMN$}");
        // Words that would touch the meaning have a line of their own.
        if words.len() + 1 > COLUMN {
            text.push_str(&words);
            text.push('\n');
            line = " ".repeat(COLUMN);
        }
        for word in meaning.split(' ') {
            if line.len() + 1 + word.len() > WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(COLUMN);
            }
            if line.len() > COLUMN {
                line.push(' ');
            }
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The head of the table in docs/operations.md.
    const HEAD: &str = "| option | default | meaning |\n|---|---|---|\n";

    /// The rows of the table in docs/operations.md.
    fn page() -> String {
        let quoted = |word: &str| format!("`{word}`");
        let row = |option: &MountOption| {
            let words: Vec<_> = option.spellings.iter().map(|spelling| quoted(spelling.word)).collect();
            let default = match option.default {
                DefaultValue::Word(word) => quoted(word),
                _ => default_of(option).to_owned(),
            };
            let sentences = [option.meaning, option.details];
            let meaning =
                sentences.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(". ");
            format!("| {} | {default} | {meaning} |\n", words.join(", "))
        };
        OPTIONS.iter().map(row).collect()
    }

    #[test]
    fn the_page_has_what_is_declared() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(HEAD).expect("docs/operations.md has the head of the table");
        let at = rest.find("\n\n").unwrap() + 1;
        let (rows, after) = rest.split_at(at);
        if std::env::var_os("CAIRNFS_DOCS").is_some_and(|how| how == "write") {
            fs::write(&path, format!("{before}{HEAD}{}{after}", page())).unwrap();
        } else {
            assert_eq!(rows, page(), "write the page anew: see the head of {}", file!());
        }
    }

    #[test]
    fn the_help_has_every_option_and_default_and_fits() {
        let help = help();
        for option in OPTIONS {
            for form in forms(option) {
                assert!(help.contains(&form), "--help has no {form}");
            }
            let default = default_of(option);
            let joined = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(default.is_empty() || joined.contains(&format!("(default: {default})")), "{default}");
        }
        for line in help.lines() {
            assert!(line.len() <= WIDTH && line.trim_end() == line, "{line:?}");
        }
        assert!(help.contains("\n  gc=auto|off                cycles of the collector"), "{help}");
        assert!(help.contains("\n  noatime, relatime, strictatime\n"), "{help}");
    }
}
