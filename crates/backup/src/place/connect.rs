//! The client of an object store, with our own cryptography, trust, timeouts and patience.

use super::Patience;
use super::bucket::{Bucket, Secret, Service, authorities, is_loopback};
use groundskeeper_systems::trust;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ClientOptions, Error as StoreError, ObjectStore, RetryConfig};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::Duration;

/// Far longer than a connection takes, and short enough to say that there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds for who only looks: within the ten seconds that a reading has, so that it says what the store answered.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_RETRY_FOR: Duration = Duration::from_secs(3);
/// The time decides, not how often it was tried.
const MOST_RETRIES: usize = 1_000;

/// The objects below the bucket's folder.
pub(super) fn objects(bucket: &Bucket, patience: Patience) -> Result<Arc<dyn ObjectStore>, String> {
    match bucket.service {
        Service::S3 => Ok(prefixed(bucket, s3(bucket, patience)?.build().map_err(refused)?)),
        Service::Google => Ok(prefixed(bucket, google(bucket, patience)?.build().map_err(refused)?)),
        Service::Azure => Ok(prefixed(bucket, azure(bucket, patience)?.build().map_err(refused)?)),
    }
}

/// What a builder complains of is a setting that is missing or wrong; it repeats none that is secret.
fn refused(error: StoreError) -> String {
    match error {
        StoreError::Generic { source, .. } => format!("{source}; see [backup.storage]"),
        other => format!("{other}; see [backup.storage]"),
    }
}

fn prefixed(bucket: &Bucket, objects: impl ObjectStore) -> Arc<dyn ObjectStore> {
    if bucket.prefix.is_empty() {
        Arc::new(objects)
    } else {
        Arc::new(PrefixStore::new(objects, bucket.prefix.as_str()))
    }
}

fn s3(bucket: &Bucket, patience: Patience) -> Result<AmazonS3Builder, String> {
    let storage = &bucket.storage;
    let environment = AmazonS3Builder::from_env();
    // Credentials of the configuration do not mix with a token of the environment.
    let mut builder = if storage.access_key_id.is_some() { AmazonS3Builder::new() } else { environment.clone() };
    if let Some(region) = storage.region.clone().or_else(|| environment.get_config_value(&AmazonS3ConfigKey::Region)) {
        builder = builder.with_region(region);
    }
    if let Some(id) = &storage.access_key_id {
        builder = builder.with_access_key_id(id);
    }
    if let Some(secret) = read(storage.secret_access_key.as_ref())? {
        builder = builder.with_secret_access_key(secret);
    }
    if let Some(token) = read(storage.session_token.as_ref())? {
        builder = builder.with_token(token);
    }
    let of_environment = || {
        environment
            .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| environment.get_config_value(&AmazonS3ConfigKey::Endpoint))
    };
    let endpoint = storage.endpoint.clone().or_else(of_environment);
    if let Some(endpoint) = &endpoint {
        let whole = if storage.path_style { endpoint.clone() } else { hosted(endpoint, &bucket.name) };
        // This one wins over every other that the environment names.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, whole);
    }
    if storage.checksums {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    let connector = connector(bucket, endpoint.as_deref(), patience)?;
    Ok(builder
        .with_bucket_name(&bucket.name)
        .with_virtual_hosted_style_request(!storage.path_style)
        .with_allow_http(connector.plain)
        // Part of the core of the protocol, unlike the deletion of many at once, and we delete few.
        .with_disable_bulk_delete(true)
        .with_retry(retries(bucket, patience))
        .with_http_connector(connector))
}

/// `https://host` becomes `https://bucket.host`.
fn hosted(endpoint: &str, bucket: &str) -> String {
    let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    format!("{scheme}://{bucket}.{host}")
}

fn google(bucket: &Bucket, patience: Patience) -> Result<GoogleCloudStorageBuilder, String> {
    let storage = &bucket.storage;
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&bucket.name);
    if let Some(file) = &storage.credentials_file {
        builder = builder.with_service_account_path(file.display().to_string());
    }
    if let Some(endpoint) = &storage.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let connector = connector(bucket, storage.endpoint.as_deref(), patience)?;
    let options = ClientOptions::new().with_allow_http(connector.plain);
    Ok(builder.with_client_options(options).with_retry(retries(bucket, patience)).with_http_connector(connector))
}

fn azure(bucket: &Bucket, patience: Patience) -> Result<MicrosoftAzureBuilder, String> {
    let storage = &bucket.storage;
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&bucket.name);
    if let Some(account) = &storage.account {
        builder = builder.with_account(account);
    }
    if let Some(key) = read(storage.account_key.as_ref())? {
        builder = builder.with_access_key(key);
    }
    let endpoint = storage.endpoint.clone().or_else(|| builder.get_config_value(&AzureConfigKey::Endpoint));
    if let Some(endpoint) = &storage.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let connector = connector(bucket, endpoint.as_deref(), patience)?;
    Ok(builder.with_allow_http(connector.plain).with_retry(retries(bucket, patience)).with_http_connector(connector))
}

fn read(secret: Option<&Secret>) -> Result<Option<String>, String> {
    secret.map(Secret::read).transpose().map(|secret| secret.map(|secret| secret.expose_secret().to_owned()))
}

fn retries(bucket: &Bucket, patience: Patience) -> RetryConfig {
    let configured = bucket.storage.retry_for;
    let retry_timeout = if patience == Patience::Look { configured.min(LOOK_RETRY_FOR) } else { configured };
    let max_retries = if retry_timeout.is_zero() { 0 } else { MOST_RETRIES };
    RetryConfig { retry_timeout, max_retries, ..RetryConfig::default() }
}

fn connector(bucket: &Bucket, endpoint: Option<&str>, patience: Patience) -> Result<Connector, String> {
    let storage = &bucket.storage;
    let local = endpoint.is_some_and(is_loopback);
    let pem = storage.ca_file.as_deref().map(authorities).transpose()?;
    let roots = trust::authorities(pem.as_deref()).map_err(|error| error.to_string())?;
    let tls = ClientConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let timeout = if patience == Patience::Look { storage.timeout.min(LOOK_TIMEOUT) } else { storage.timeout };
    Ok(Connector { tls, timeout, local, plain: local || storage.allow_http })
}

/// Makes clients that trust whom the rest of us trusts, and need no cryptography that is set for the whole process.
#[derive(Debug)]
struct Connector {
    tls: ClientConfig,
    timeout: Duration,
    /// On this machine: no proxy leads there.
    local: bool,
    /// Whether the store may be reached without TLS.
    plain: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient, StoreError> {
        // A cloud's own address that gives a machine its credentials has no TLS, and asks for this by itself.
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .https_only(!plain)
            .connect_timeout(CONNECT_TIMEOUT.min(self.timeout))
            .timeout(self.timeout)
            .user_agent(concat!("groundskeeper/", env!("CARGO_PKG_VERSION")));
        if self.local {
            client = client.no_proxy();
        }
        let built = client
            .build()
            .map_err(|error| StoreError::Generic { store: "the HTTP client", source: Box::new(error.without_url()) })?;
        Ok(HttpClient::new(built))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Place, Storage};
    use super::*;

    fn bucket(address: &str, storage: Storage) -> Bucket {
        Bucket::parse(address, storage).unwrap()
    }

    #[test]
    fn each_service_has_a_client() {
        let key = Storage {
            access_key_id: Some("id".into()),
            secret_access_key: Some(Secret::Given("hunter2".into())),
            region: Some("eu-central-1".into()),
            account: Some("ann".into()),
            account_key: Some(Secret::Given("aHVudGVyMg==".into())),
            ..Storage::default()
        };
        for address in ["s3://backups/one", "az://backups/one", "gs://backups"] {
            let objects = objects(&bucket(address, key.clone()), Patience::Work).unwrap();
            let shown = format!("{objects:?}");
            assert!(shown.contains("backups"), "{shown}");
        }
        let shown = format!("{:?}", Place::of_bucket(bucket("s3://backups", key)));
        assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "{shown}");
    }

    #[test]
    fn a_bucket_may_be_part_of_the_hosts_name() {
        assert_eq!(hosted("https://minio.example:9000", "backups"), "https://backups.minio.example:9000");
    }

    #[test]
    fn who_only_looks_does_not_wait_as_long_as_who_works() {
        let patient = bucket("s3://backups", Storage::default());
        assert_eq!(retries(&patient, Patience::Work).retry_timeout, Duration::from_mins(3));
        assert_eq!(retries(&patient, Patience::Look).retry_timeout, LOOK_RETRY_FOR);
        let never = bucket("s3://backups", Storage { retry_for: Duration::ZERO, ..Storage::default() });
        assert_eq!(retries(&never, Patience::Work).max_retries, 0);
    }

    #[test]
    fn a_file_with_a_secret_that_is_gone_is_named() {
        let gone = Some(Secret::File("/nowhere/secret".into()));
        let storage = Storage { access_key_id: Some("id".into()), secret_access_key: gone, ..Storage::default() };
        let why = objects(&bucket("s3://backups", storage), Patience::Work).unwrap_err();
        assert!(why.contains("/nowhere/secret"), "{why}");
    }
}
