//! Sizes as people write and read them. Units are powers of 1024 and say so.

/// Bytes in a KiB, MiB and so on, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Reads `4096`, `64K`, `64KiB`, `2G`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").unwrap_or(&unit);
    let wrong = || format!("`{text}` is not a size; write a number of bytes, or 64K, 256M, 2G, 1T");
    let shift = match unit {
        "" => 0,
        _ => UNITS
            .iter()
            .find(|(letter, _)| unit.strip_prefix(*letter) == Some(""))
            .map(|(_, shift)| *shift)
            .ok_or_else(wrong)?,
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// Writes a size with three digits or so: `512 B`, `64.0 KiB`, `1.23 GiB`.
pub(super) fn show_size(bytes: u64) -> String {
    for (letter, shift) in UNITS {
        if bytes >= 1 << shift {
            #[allow(clippy::cast_precision_loss, reason = "for display, three digits")]
            let value = bytes as f64 / (1u64 << shift) as f64;
            let digits = if value < 10.0 { 2 } else { usize::from(value < 1000.0) };
            return format!("{value:.digits$} {letter}iB");
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("3M", 3 << 20),
            ("2G", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "1X", "64KB", "64 K", "99999999T", "KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (65536, "64.0 KiB"),
            (5 << 30, "5.00 GiB"),
            (1000 << 20, "1000 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }
}
