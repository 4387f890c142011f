//! Keys, sessions and the audit log.

use crate::scene::{Scene, TENANT, caller, caller_of};
use docrag::search::SearchMode;
use docrag::service::Scopes;
use docrag::store::Store;
use docrag::store::StoreError;
use docrag::store::audit::{AuditCursor, AuditEntry, AuditOutcome};
use docrag::store::keys::{AuthRefusal, NewKey};
use secrecy::ExposeSecret;

async fn store(scene: &Scene) -> Store {
    let store = Store::open(&scene.settings().database).await.unwrap();
    store.migrate().await.unwrap();
    store
}

fn new_key(name: &str) -> NewKey {
    let scopes = Scopes { read: true, write: false, admin: false };
    NewKey { tenant: TENANT.to_owned(), name: name.to_owned(), scopes, expires_at: None }
}

#[tokio::test]
async fn a_key_lets_in_until_it_is_revoked_or_expires_and_its_secret_is_stored_nowhere() {
    let scene = Scene::start().await;
    let store = store(&scene).await;
    let (key, secret) = store.create_key(&caller(), &new_key("ci")).await.unwrap();
    let secret = secret.expose_secret();
    assert!(secret.starts_with("dr_") && secret.len() == 67, "{secret}");
    let found = store.authenticate_key(secret).await.unwrap().unwrap();
    assert_eq!((found.id, found.tenant.as_str(), found.scopes), (key.id, TENANT, key.scopes));
    let client = scene.postgres.client().await;
    let dump: String = client.query_one("SELECT api_keys::text FROM api_keys", &[]).await.unwrap().get(0);
    assert!(!dump.contains(&secret[3..]));
    for wrong in ["", "dr_", &secret[..66], "' OR true --", "dr_\0"] {
        assert_eq!(store.authenticate_key(wrong).await.unwrap(), Err(AuthRefusal::Unknown), "{wrong}");
    }

    client.execute("UPDATE api_keys SET expires_at = now()", &[]).await.unwrap();
    assert_eq!(store.authenticate_key(secret).await.unwrap(), Err(AuthRefusal::Expired));
    assert!(!store.revoke_key(&caller_of("other"), key.id).await.unwrap(), "somebody else's key");
    assert!(store.revoke_key(&caller(), key.id).await.unwrap());
    assert!(!store.revoke_key(&caller(), key.id).await.unwrap());
    assert_eq!(store.authenticate_key(secret).await.unwrap(), Err(AuthRefusal::Revoked));
    assert!(store.keys(Some("other")).await.unwrap().is_empty());
    assert_eq!(store.keys(Some(TENANT)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_ends_by_itself_by_hand_and_with_its_key() {
    let scene = Scene::start().await;
    let store = store(&scene).await;
    let (key, _) = store.create_key(&caller(), &new_key("page")).await.unwrap();
    let (session, token) = store.create_session(&key, 24, "login").await.unwrap();
    let found = store.authenticate_session(token.expose_secret()).await.unwrap().unwrap();
    assert_eq!((found.id, found.tenant.as_str(), found.scopes), (session.id, TENANT, key.scopes));
    store.end_session(&caller(), session.id).await.unwrap();
    assert_eq!(store.authenticate_session(token.expose_secret()).await.unwrap(), Err(AuthRefusal::Revoked));

    let (_, token) = store.create_session(&key, 24, "login").await.unwrap();
    let client = scene.postgres.client().await;
    client.execute("UPDATE user_sessions SET expires_at = now() - interval '8 days'", &[]).await.unwrap();
    assert_eq!(store.authenticate_session(token.expose_secret()).await.unwrap(), Err(AuthRefusal::Expired));
    assert_eq!(store.remove_old_sessions().await.unwrap(), 2);
    let (_, token) = store.create_session(&key, 24, "login").await.unwrap();
    store.revoke_key(&caller(), key.id).await.unwrap();
    assert_eq!(store.authenticate_session(token.expose_secret()).await.unwrap(), Err(AuthRefusal::Revoked));
}

#[tokio::test]
async fn what_is_written_and_its_audit_entry_are_there_together_or_not_at_all() {
    let scene = Scene::start().await;
    let store = store(&scene).await;
    let client = scene.postgres.client().await;
    client.execute("INSERT INTO corpora (tenant, name) VALUES ($1, 'manual')", &[&TENANT]).await.unwrap();
    let (key, _) = store.create_key(&caller(), &new_key("ci")).await.unwrap();
    let (session, _) = store.create_session(&key, 24, "login").await.unwrap();
    let (other, token) = store.create_session(&key, 24, "login").await.unwrap();
    store.end_session(&caller(), session.id).await.unwrap();
    assert!(store.set_search_mode(&caller(), "manual", SearchMode::Lexical, "by hand").await.unwrap());
    let actions = async || {
        let records = store.audit(TENANT, None, 100).await.unwrap();
        records.into_iter().rev().map(|record| record.action).collect::<Vec<_>>()
    };
    let written = ["key.create", "session.login", "session.login", "session.logout", "corpus.set-mode"];
    assert_eq!(actions().await, written);

    // From now on nothing can be written to the log.
    client.batch_execute("ALTER TABLE audit_logs RENAME TO away").await.unwrap();
    store.create_key(&caller(), &new_key("unlogged")).await.unwrap_err();
    store.create_session(&key, 24, "login").await.unwrap_err();
    store.end_session(&caller(), other.id).await.unwrap_err();
    store.set_search_mode(&caller(), "manual", SearchMode::Dense, "by hand").await.unwrap_err();
    store.revoke_key(&caller(), key.id).await.unwrap_err();
    assert_eq!(store.keys(None).await.unwrap().len(), 1);
    assert!(store.authenticate_session(token.expose_secret()).await.unwrap().is_ok());
    assert_eq!(scene.number("SELECT count(*) FROM user_sessions").await, 2);
    let corpus = store.corpus(TENANT, "manual").await.unwrap().unwrap();
    assert_eq!(corpus.search_mode, SearchMode::Lexical);
    client.batch_execute("ALTER TABLE away RENAME TO audit_logs").await.unwrap();
    assert_eq!(actions().await, written);
}

fn entry(tenant: &str, action: &str) -> AuditEntry {
    AuditEntry {
        tenant: Some(tenant.to_owned()),
        actor: "cli".to_owned(),
        action: action.to_owned(),
        subject: "x".to_owned(),
        outcome: AuditOutcome::Done,
        request_id: Some("r".to_owned()),
        details: serde_json::json!({"n": 1}),
    }
}

#[tokio::test]
async fn the_audit_log_is_listed_by_tenant_and_goes_into_the_partition_of_its_month() {
    let scene = Scene::start().await;
    let store = store(&scene).await;
    // Before any partition is there: the default one catches it, and hands it over.
    store.write_audit(&entry(TENANT, "first.one")).await.unwrap();
    assert_eq!(scene.number("SELECT count(*) FROM audit_logs_default").await, 1);
    let (left, other) = tokio::join!(store.ensure_audit_partitions(), store.ensure_audit_partitions());
    assert_eq!((left.unwrap(), other.unwrap()), (0, 0));
    assert_eq!(scene.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_logs'::regclass").await, 4);
    for number in 0..5 {
        store.write_audit(&entry(TENANT, &format!("document.{number}"))).await.unwrap();
        store.write_audit(&entry("other", "document.create")).await.unwrap();
    }
    assert_eq!(scene.number("SELECT count(*) FROM audit_logs_default").await, 0);
    let first = store.audit(TENANT, None, 4).await.unwrap();
    let last = first.last().unwrap();
    let rest = store.audit(TENANT, Some(AuditCursor { at: last.at, id: last.id }), 10).await.unwrap();
    let actions: Vec<&str> = first.iter().chain(&rest).map(|record| record.action.as_str()).collect();
    assert_eq!(actions, ["document.4", "document.3", "document.2", "document.1", "document.0", "first.one"]);
}

#[tokio::test]
async fn a_database_that_is_away_is_told_apart_from_one_that_refuses() {
    let mut scene = Scene::start().await;
    let mut settings = scene.settings().database;
    // Enough for a busy machine to open a connection.
    settings.acquire_seconds = 4;
    let store = Store::open(&settings).await.unwrap();
    assert_eq!(store.pool().options().get_max_connections(), 4);
    let error = store.keys(None).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && !error.can_retry(), "no schema yet: {error}");
    scene.postgres.stop().await.unwrap();
    let error = store.keys(None).await.unwrap_err();
    assert!(error.can_retry(), "{error}");
    let error = Store::open(&settings).await.err().unwrap();
    assert!(error.can_retry(), "{error}");
    scene.postgres.start_again().await.unwrap();
    store.migrate().await.unwrap();
    store.keys(None).await.unwrap();
}
