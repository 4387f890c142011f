//! Does a file's name show that a rotation closed it? Pure.

const PACKED: [&str; 8] = ["gz", "zst", "xz", "bz2", "lz4", "zip", "tgz", "old"];
/// The names of files that a program writes to.
const WRITTEN: [&str; 6] = ["log", "err", "out", "txt", "json", "jsonl"];

/// `app.log.1`, `app.log.2.gz`, `app.log-20260302`, `app.log.2026-03-02`, `system@….journal`.
///
/// A date *before* the ending (`app-2026-03-02.log`) is a program's own way to name its files and says nothing: today's
/// is being written to.
pub(super) fn is_rotated(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let journal = (lower.contains('@') && lower.ends_with(".journal")) || lower.ends_with(".journal~");
    journal
        || lower.rsplit_once('.').is_some_and(|(stem, ending)| {
            !stem.is_empty() && (PACKED.contains(&ending) || is_number(ending, 4) || is_date(ending))
        })
        || after_written(&lower).is_some_and(|rest| is_date(rest.trim_start_matches(['-', '.', '_'])))
}

/// What follows the last `.log` (or the like) of the name.
fn after_written(name: &str) -> Option<&str> {
    WRITTEN
        .iter()
        .filter_map(|ending| {
            let dotted = format!(".{ending}");
            let at = name.rfind(&dotted)?;
            name.get(at + dotted.len()..)
        })
        .filter(|rest| rest.starts_with(['-', '.', '_']))
        .max_by_key(|rest| rest.len())
}

fn is_number(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Starts with `20260302` or `2026-03-02`; a time may follow.
fn is_date(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | '_' | '.' | 't' | ':')).take(8).collect();
    let only_date = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | 't' | 'z' | ':'));
    only_date && digits.len() == 8 && is_number(&digits, 8) && (digits.starts_with("19") || digits.starts_with("20"))
}

#[cfg(test)]
mod tests {
    use super::is_rotated;

    #[test]
    fn a_name_shows_whether_it_was_rotated() {
        for name in [
            "app.log.1",
            "app.log.12",
            "syslog.1",
            "app.log.2.gz",
            "app.log.gz",
            "app.log-20260302",
            "app.log-20260302.zst",
            "app.log.2026-03-02",
            "app.log-2026-03-02T10:00:00",
            "messages.old",
            "system@0005f1-0001.journal",
            "user-1000.journal~",
            "server.20260302",
        ] {
            assert!(is_rotated(name), "{name}");
        }
        for name in [
            "app.log",
            "syslog",
            "app-2026-03-02.log",
            "postgresql-15-main.log",
            "system.journal",
            ".1",
            ".gz",
            "",
            "app.log.current",
            "app.v2",
            "postgresql-Mon.log",
            "app.log-archive",
        ] {
            assert!(!is_rotated(name), "{name}");
        }
    }
}
