//! Puts a table that was just measured into its place in `docs/benchmarks.md`.

use anyhow::{Context, Result};
use std::path::PathBuf;

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks.md")
}

pub(super) fn record(area: &str, name: &str, text: &str) -> Result<()> {
    let path = document();
    let before = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let after = replaced(&before, area, name, text)
        .with_context(|| format!("{} has no place for `{area} {name}`", path.display()))?;
    std::fs::write(&path, after).with_context(|| format!("cannot write {}", path.display()))
}

/// What stands between `<!-- measured: AREA NAME -->` and `<!-- end -->` is replaced.
fn replaced(document: &str, area: &str, name: &str, text: &str) -> Option<String> {
    let begin = format!("<!-- measured: {area} {name} -->\n");
    let start = document.find(&begin)? + begin.len();
    let end = start + document[start..].find("<!-- end -->")?;
    Some(format!("{}{}\n{}", &document[..start], text.trim_end(), &document[end..]))
}

#[cfg(test)]
mod tests {
    use super::super::{backup, postgres};
    use super::*;

    #[test]
    fn the_document_has_a_place_for_every_part() {
        let text = std::fs::read_to_string(document()).unwrap();
        let places = backup::PARTS.map(|part| ("backup", part)).into_iter();
        for (area, part) in places.chain(postgres::PARTS.map(|part| ("postgres", part))) {
            let once =
                replaced(&text, area, part, "| a table |").unwrap_or_else(|| panic!("no place for {area} {part}"));
            assert_eq!(replaced(&once, area, part, "| a table |").unwrap(), once);
            assert!(once.contains("| a table |\n<!-- end -->"));
        }
    }
}
