//! Names of files in reports: a form that neither a terminal nor JSON can misread, and from which every byte can be
//! restored.
//!
//! Keeps true: two different paths never look alike, and the text has no control characters. A byte becomes `\xHH` if
//! it is not part of valid UTF-8, belongs to a control character, or is a slash inside a name (which only damage can
//! make). A backslash becomes `\\`. Everything else stays. An inode without a path is written `(inode N, without a
//! path)`; in a name that begins like this, the parenthesis becomes `\x28`.

use std::fmt::Write as _;

/// The beginning of the text for an inode without a path.
const NO_PATH: &str = "(inode ";

/// Parts of a path, as a report has them.
pub fn shown<P: AsRef<[u8]>>(parts: &[P]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| shown_name(part.as_ref())).collect();
    parts.join("/")
}

/// One name, as a report has it.
pub fn shown_name(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for piece in name.utf8_chunks() {
        for c in piece.valid().chars() {
            let mut bytes = [0; 4];
            match c {
                '\\' => out.push_str(r"\\"),
                '/' => escape(&mut out, b"/"),
                '(' if out.is_empty() && name.starts_with(NO_PATH.as_bytes()) => escape(&mut out, b"("),
                c if is_plain(c) => out.push(c),
                c => escape(&mut out, c.encode_utf8(&mut bytes).as_bytes()),
            }
        }
        escape(&mut out, piece.invalid());
    }
    out
}

/// True for a character that neither moves the cursor nor changes the order in which text is shown.
fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

fn escape(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// The text for an inode without a known path.
pub(super) fn without_path(ino: u64) -> String {
    format!("{NO_PATH}{ino}, without a path)")
}

/// The bytes of a path that [`shown`] wrote; none if it is that of an inode without one.
pub fn bytes_of(shown: &str) -> Option<Vec<u8>> {
    if shown.starts_with(NO_PATH) {
        return None;
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(shown.len()), shown);
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        if let Some(after) = escaped.strip_prefix('\\') {
            bytes.push(b'\\');
            rest = after;
        } else {
            let digits = escaped.strip_prefix('x')?.get(..2)?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &escaped[3..];
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_none_is_shown_like_another() {
        let mut names: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![b'a', byte, b'z']).collect();
        let odd: [&[u8]; 9] = [
            b"caf\xe9.jpg",
            b"caf\xe8.jpg",
            "caf\u{e9}.jpg".as_bytes(),
            br"\xe9",
            b"line\nfeed",
            b"\x1b[31mred\x1b[0m",
            b"(inode 7, without a path)",
            "turned\u{202e}gpj.exe".as_bytes(),
            "\u{9b}31m".as_bytes(),
        ];
        names.extend(odd.map(<[u8]>::to_vec));
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let text = shown_name(&name);
            assert!(text.chars().all(is_plain), "{text:?}");
            assert_eq!(bytes_of(&text).as_deref(), Some(&name[..]), "{text}");
            assert!(seen.insert(text));
        }
        assert_eq!(shown(&[&b"a"[..], b"caf\xe9"]), r"a/caf\xe9");
        assert_eq!(bytes_of(&without_path(7)), None);
        for wrong in [r"a\", r"a\q", r"\x", r"\xg0", "\\x\u{e9}"] {
            assert_eq!(bytes_of(wrong), None, "{wrong}");
        }
    }
}
