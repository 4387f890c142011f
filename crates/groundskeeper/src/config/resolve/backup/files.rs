//! `files`: folders that are backed up with all below them.

use super::whole_path;
use crate::config::raw::Section;
use groundskeeper_backup::vault::FileSource;
use std::path::Path;

const EXAMPLE: &str = "/srv/docs";

/// Each is a part of its own, named by its whole path, so that no other folder in the list changes a name.
pub(super) fn all(section: &Section<'_>) -> Vec<FileSource> {
    let other_filesystems = section.flag("other_filesystems").unwrap_or(false);
    let mut found: Vec<FileSource> = Vec::new();
    for written in section.texts("files").unwrap_or_default() {
        let Some(path) = whole_path(section, "files", &written, EXAMPLE) else { continue };
        let name = name(&path);
        if let Some(other) = found.iter().find(|other| other.name == name) {
            let message = format!(
                "`files`{}: {} and {} would both be called {name}; keep one, or name a folder above them",
                section.place(),
                other.path.display(),
                path.display()
            );
            section.problem(written.at, message);
            continue;
        }
        found.push(FileSource { name, path, other_filesystems });
    }
    found
}

/// `files.srv-docs` of `/srv/docs`.
fn name(path: &Path) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let parts = path.components().skip(1).map(|part| part.as_os_str().to_string_lossy().chars().map(plain).collect());
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "files.root".to_owned() } else { format!("files.{}", parts.join("-")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_by_its_whole_path() {
        assert_eq!(name(Path::new("/srv/docs/")), "files.srv-docs");
        assert_eq!(name(Path::new("/home/ann/My Files")), "files.home-ann-My-Files");
        assert_eq!(name(Path::new("/")), "files.root");
    }
}
