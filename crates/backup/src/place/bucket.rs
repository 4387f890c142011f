//! What is configured of an object store.

use secrecy::SecretString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One request, from its first byte to the last of its answer. A pack of 16 MiB needs 280 KiB/s.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How long a request is tried again. Credentials are not renewed in between, so it stays below five minutes.
const RETRY_FOR: Duration = Duration::from_mins(3);

/// The folder `prefix` of a bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) service: Service,
    pub(super) name: String,
    /// Without slashes around it; empty for the whole bucket.
    pub(super) prefix: String,
    pub(super) storage: Storage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, and whatever else speaks its protocol.
    S3,
    Google,
    Azure,
}

impl Service {
    const ALL: [Self; 3] = [Self::S3, Self::Google, Self::Azure];

    /// As in `s3://bucket`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }
}

/// How an object store is reached. What is not given is taken from the environment that the programs of the same service
/// use (`AWS_ACCESS_KEY_ID`, `AWS_REGION` …), or from the machine's role in that cloud.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `https://minio.example:9000`; the service's own otherwise.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// Of credentials that last for some hours only.
    pub session_token: Option<Secret>,
    /// `https://endpoint/bucket` instead of `https://bucket.endpoint`.
    pub path_style: bool,
    /// Whether an endpoint that is not on this machine may be without TLS. Backups are encrypted before; credentials sign
    /// and are not sent; whoever listens sees when what is stored, and can change it on its way, which is noticed.
    pub allow_http: bool,
    /// Sends the SHA-256 of each file for the store to check, as S3 wants it where objects are locked for a while. Not every
    /// store that speaks its protocol takes it.
    pub checksums: bool,
    /// Azure's.
    pub account: Option<String>,
    pub account_key: Option<Secret>,
    /// Google's: the key of a service account as JSON.
    pub credentials_file: Option<PathBuf>,
    /// An authority to trust besides those of this machine, as PEM.
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
    pub retry_for: Duration,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            path_style: true,
            allow_http: false,
            checksums: false,
            account: None,
            account_key: None,
            credentials_file: None,
            ca_file: None,
            timeout: TIMEOUT,
            retry_for: RETRY_FOR,
        }
    }
}

/// A file is read anew each time a place is opened: credentials are renewed there while the keeper runs.
#[derive(Debug, Clone)]
pub enum Secret {
    Given(SecretString),
    /// Its first line.
    File(PathBuf),
}

impl Secret {
    pub(super) fn read(&self) -> Result<SecretString, String> {
        let path = match self {
            Self::Given(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("the file with the credentials {}: {error}", path.display()))?;
        match text.lines().next().map(str::trim) {
            Some(secret) if !secret.is_empty() => Ok(secret.into()),
            _ => Err(format!("the file with the credentials {} is empty", path.display())),
        }
    }
}

impl Bucket {
    /// As restic writes the same place. Its credentials are in variables that restic and we both know.
    pub(super) fn restic(&self) -> String {
        let (name, folder) = (&self.name, &self.prefix);
        match self.service {
            Service::S3 => {
                let endpoint = self.storage.endpoint.as_deref().unwrap_or("https://s3.amazonaws.com");
                format!("s3:{}/{name}/{folder}", endpoint.trim_end_matches('/'))
            }
            Service::Google => format!("gs:{name}:/{folder}"),
            Service::Azure => format!("azure:{name}:/{folder}"),
        }
    }

    /// What restic needs of the environment.
    pub(super) fn variables(&self) -> [&'static str; 2] {
        match self.service {
            Service::S3 => ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
            Service::Google => ["GOOGLE_PROJECT_ID", "GOOGLE_APPLICATION_CREDENTIALS"],
            Service::Azure => ["AZURE_ACCOUNT_NAME", "AZURE_ACCOUNT_KEY"],
        }
    }

    /// Of `s3://bucket/some/folder`, with `gs` and `az` likewise. An error says what is wrong with the address and never
    /// repeats it: somebody may have written credentials into it.
    pub fn parse(address: &str, storage: Storage) -> Result<Self, String> {
        let (scheme, rest) = address.split_once("://").ok_or("it is no address such as s3://bucket/folder")?;
        let Some(service) = Service::ALL.into_iter().find(|service| service.scheme() == scheme) else {
            return Err(
                "the store is not known; write s3://, gs:// or az:// (an endpoint of your own is `endpoint` of \
                        [backup.storage])"
                    .to_owned(),
            );
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains(['@', '?', '#', '%', ' ']) {
            return Err(
                "it may hold a bucket and a folder only; credentials and the rest belong into [backup.storage]"
                    .to_owned(),
            );
        }
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(letters) {
            return Err(format!("it needs the name of a bucket, such as {scheme}://backups/groundskeeper"));
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.split('/').any(|part| matches!(part, "." | "..") || (part.is_empty() && !prefix.is_empty())) {
            return Err("its folder has an empty part, `.` or `..`".to_owned());
        }
        let bucket = Self { service, name: name.to_owned(), prefix: prefix.to_owned(), storage };
        bucket.check_endpoint()?;
        Ok(bucket)
    }

    fn check_endpoint(&self) -> Result<(), String> {
        let Some(endpoint) = &self.storage.endpoint else { return Ok(()) };
        let (plain, rest) = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("`endpoint` must begin with https:// or http://".to_owned()),
        };
        if rest.is_empty() || rest.contains(['@', '?', '#', ' ']) {
            return Err("`endpoint` may hold a host and a port only, such as https://minio.example:9000".to_owned());
        }
        if plain && !self.storage.allow_http && !is_loopback(endpoint) {
            return Err(
                "`endpoint` is without TLS and not on this machine; write https://, or set `allow_http = true` \
                        if nobody else is on that network"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.service.scheme(), self.name)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// Whether `http://host:port/…` is on this machine.
pub(super) fn is_loopback(endpoint: &str) -> bool {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A PEM file to trust.
pub(super) fn authorities(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("the authority's file {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Result<Bucket, String> {
        Bucket::parse(address, Storage::default())
    }

    #[test]
    fn an_address_has_a_bucket_and_perhaps_a_folder() {
        let shown = |address| parse(address).unwrap().to_string();
        assert_eq!(shown("s3://backups/some/folder/"), "s3://backups/some/folder");
        assert_eq!(shown("gs://backups"), "gs://backups");
        assert_eq!(shown("az://backups/"), "az://backups");
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_without_repeating_it() {
        for (address, said) in [
            ("/var/backups", "no address"),
            ("ftp://hunter2/x", "s3://, gs:// or az://"),
            ("s3://", "name of a bucket"),
            ("s3:///hunter2", "name of a bucket"),
            ("s3://ann:hunter2@backups/x", "credentials"),
            ("s3://backups/x?secret=hunter2", "credentials"),
            ("s3://backups/../hunter2", "`..`"),
            ("s3://backups//hunter2", "empty part"),
        ] {
            let why = parse(address).unwrap_err();
            assert!(why.contains(said) && !why.contains("hunter2"), "{address}: {why}");
        }
    }

    #[test]
    fn an_endpoint_without_tls_is_on_this_machine_or_was_allowed() {
        let to = |endpoint: &str, allow_http| {
            let storage = Storage { endpoint: Some(endpoint.to_owned()), allow_http, ..Storage::default() };
            Bucket::parse("s3://backups", storage).map(|_| ())
        };
        for fine in ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "https://minio.example"] {
            assert_eq!(to(fine, false), Ok(()), "{fine}");
        }
        assert!(to("http://minio.example:9000", false).unwrap_err().contains("`allow_http = true`"));
        assert_eq!(to("http://minio.example:9000", true), Ok(()));
        // A name that only begins like one of this machine.
        assert!(to("http://127.0.0.1.evil.example", false).is_err());
        let why = to("https://ann:hunter2@minio.example", false).unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
        assert!(to("minio.example", false).unwrap_err().contains("https://"));
    }

    #[test]
    fn a_secret_is_the_first_line_of_its_file_and_shows_in_no_debug() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = Secret::File(file.path().to_owned());
        assert!(secret.read().unwrap_err().contains("is empty"));
        std::fs::write(file.path(), "hunter2 \nmore\n").unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&secret.read().unwrap()), "hunter2");
        let shown =
            format!("{:?}", Storage { session_token: Some(Secret::Given("hunter2".into())), ..Storage::default() });
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
