//! Amounts of bytes as people write them: `5 GiB`, `20 MB`. `k`, `M` and `G` are powers of 1000, `Ki`, `Mi` and `Gi` of 1024.

use bytesize::ByteSize;

/// Bytes. A number alone is refused: nobody remembers which unit was meant.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no amount of bytes; write for example \"5 GiB\" or \"500 MB\"");
    if !text.trim_end().ends_with(|last: char| last.is_ascii_alphabetic()) {
        return Err(wrong());
    }
    text.trim().parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| wrong())
}

/// Bytes a second above zero: `20 MB/s`.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no rate; write for example \"20 MB/s\"");
    let amount = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
    parse(amount).ok().filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_unit_and_refused_without() {
        for (text, bytes) in [("5 GiB", 5 << 30), ("500MB", 500_000_000), ("1.5 KiB", 1536), (" 0 B ", 0)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "5", "-5 GiB", "much", "5 parsecs"] {
            assert!(parse(text).unwrap_err().contains("for example"), "{text}");
        }
        assert_eq!(parse_rate("20 MB/s"), Ok(20_000_000));
        for text in ["20 MB", "0 B/s", "20/s", "/s"] {
            assert!(parse_rate(text).unwrap_err().contains("for example"), "{text}");
        }
    }
}
