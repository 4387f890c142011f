//! The first configuration: it refers to what is there, copies no secret, and always loads.

use groundskeeper::config::init::{Places, discover};
use groundskeeper::config::{self, ConfigError, Environment, Settings};
use groundskeeper_core::SystemKind;
use groundskeeper_testing::{HttpTarget, RedisServer};
use std::path::Path;

fn parse_with(text: &str, environment: &Environment) -> Result<Settings, ConfigError> {
    config::parse(text, Path::new("groundskeeper.toml"), environment)
}

fn parse(text: &str) -> Result<Settings, ConfigError> {
    parse_with(text, &Environment::default())
}

fn nowhere() -> Places {
    Places { log_root: "/no/such/folder".into(), ports: Vec::new() }
}

#[test]
fn the_file_loads_even_when_nothing_was_found() {
    let found = discover(&Environment::default(), &nowhere());
    let settings = parse(&found.text).unwrap_or_else(|error| panic!("{error}\n{}", found.text));
    assert_eq!(settings.systems.len(), 1, "the host is always there");
    assert!(found.missing.iter().any(|sentence| sentence.starts_with("No Postgres")), "{:?}", found.missing);
}

#[test]
fn addresses_of_the_environment_are_referred_to_and_not_copied() {
    let environment = Environment::of([
        ("DATABASE_URL", "postgres://ann:hunter2@db.example/app"),
        ("REDIS_URL", "redis://:hunter2@localhost:6379"),
    ]);
    let found = discover(&environment, &nowhere());
    assert!(!found.text.contains("hunter2") && found.text.contains("url = \"${DATABASE_URL}\""), "{}", found.text);
    let settings = parse_with(&found.text, &environment).unwrap_or_else(|error| panic!("{error}"));
    let ids: Vec<String> = settings.systems.iter().map(|system| system.id.to_string()).collect();
    assert_eq!(ids, ["postgres.main", "redis.cache", "host.local"]);
}

#[test]
fn variables_of_libpq_are_composed() {
    let environment = Environment::of([("PGHOST", "db.example"), ("PGPASSWORD", "hunter2")]);
    let found = discover(&environment, &nowhere());
    assert!(!found.text.contains("hunter2"));
    assert!(parse_with(&found.text, &environment).is_ok(), "{}", found.text);
}

#[tokio::test]
async fn a_port_is_named_after_who_answers_on_it() {
    let (redis, http) = (RedisServer::start().await.unwrap(), HttpTarget::start().await.unwrap());
    let port = url::Url::parse(&http.url()).unwrap().port().unwrap();
    let places = Places { ports: vec![redis.port(), port], ..nowhere() };
    let found = tokio::task::spawn_blocking(move || discover(&Environment::default(), &places)).await.unwrap();
    let settings = parse(&found.text).unwrap_or_else(|error| panic!("{error}\n{}", found.text));
    let kinds: Vec<SystemKind> = settings.systems.iter().map(|system| system.id.kind).collect();
    assert_eq!(kinds, [SystemKind::Redis, SystemKind::Http, SystemKind::Host], "{}", found.text);
}

#[test]
fn folders_of_applications_are_found_and_those_of_the_system_are_not() {
    let root = tempfile::tempdir().unwrap();
    for name in ["nginx", "journal", "my app"] {
        std::fs::create_dir(root.path().join(name)).unwrap();
    }
    let places = Places { log_root: root.path().to_owned(), ports: Vec::new() };
    let settings = parse(&discover(&Environment::default(), &places).text).unwrap();
    let ids: Vec<String> = settings.systems.iter().map(|system| system.id.to_string()).collect();
    assert_eq!(ids, ["host.local", "logs.my-app", "logs.nginx"]);
}
