//! The program of Qdrant.

use std::path::PathBuf;

/// Where packages and images put it, besides `$PATH`.
const PACKAGED: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/qdrant"];

/// Looks in `extra` first, then in `$PATH`, then where packages put it.
pub(crate) fn find(extra: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = extra.to_vec();
    folders.extend(std::env::split_paths(&path));
    folders.extend(PACKAGED.map(PathBuf::from));
    let mut found = folders.into_iter().map(|folder| folder.join("qdrant"));
    found.find(|program| program.is_absolute() && program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("qdrant"), "").unwrap();
        assert_eq!(find(&[folder.path().to_owned()]), Some(folder.path().join("qdrant")));
    }
}
