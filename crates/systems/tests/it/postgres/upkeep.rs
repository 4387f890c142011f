//! What a reading sees of indexes, constraints and of whoever keeps the server from cleaning up: each caused for real.

use super::{findings, only, role, run, seen, waiting, write};
use groundskeeper_core::observation::{HeldBy, Postgres};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

async fn started(options: PostgresOptions) -> PostgresServer {
    PostgresServer::start_with(options.set("autovacuum", "off")).await.unwrap()
}

#[tokio::test]
async fn whoever_holds_back_the_removal_of_dead_rows_is_named() {
    let options = PostgresOptions::default().set("max_prepared_transactions", "5").set("wal_level", "logical");
    let server = started(options).await;
    let limits = [("warning", 50.0)];
    let check = "postgres.xmin_held_back";
    run(&server, &["CREATE TABLE notes (id int)"]).await;
    write(&server, 100).await;
    assert_eq!(findings(&server, check, &limits).await, [], "nobody holds anything");

    let reader = server.client().await;
    reader.batch_execute("SET application_name = 'report'; BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    reader.query("SELECT count(*) FROM notes", &[]).await.unwrap();
    write(&server, 100).await;
    let found = only(&server, check, &limits).await;
    assert!(found.summary.contains("report, idle in transaction"), "{}", found.summary);
    assert!(found.fix.contains("ask its owner"), "it is a superuser's: {}", found.fix);
    reader.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(findings(&server, check, &limits).await, []);

    run(&server, &["BEGIN; INSERT INTO notes VALUES (1); PREPARE TRANSACTION 'lost one'"]).await;
    write(&server, 100).await;
    let found = only(&server, check, &limits).await;
    assert!(found.fix.contains("ROLLBACK PREPARED 'lost one'"), "{}", found.fix);
    let forgotten = only(&server, "postgres.prepared_transaction_forgotten", &[("warning", 0.0)]).await;
    assert!(forgotten.summary.contains("lost one"), "{}", forgotten.summary);
    assert_eq!(findings(&server, "postgres.prepared_transaction_forgotten", &[]).await, [], "it is young");
    run(&server, &["ROLLBACK PREPARED 'lost one'"]).await;

    run(&server, &["SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')"]).await;
    write(&server, 100).await;
    let found = only(&server, check, &limits).await;
    assert!(found.summary.contains("the replication slot cdc"), "{}", found.summary);
    let holders = seen(&server.url()).await.horizon.unwrap().holders;
    let cdc = HeldBy::Slot { name: "cdc".into(), is_active: false, only_catalogues: true };
    assert!(holders.iter().any(|holder| holder.by == cdc && holder.age >= 100));
}

#[tokio::test]
async fn a_slot_without_a_consumer_is_seen_with_what_it_keeps_and_when_it_is_lost() {
    let options = PostgresOptions::default().set("wal_level", "replica").set("max_slot_wal_keep_size", "64MB");
    let server = started(options).await;
    run(&server, &["SELECT pg_create_physical_replication_slot('replica', true)"]).await;
    assert_eq!(findings(&server, "postgres.slot_retaining", &[]).await, []);
    run(&server, &["CREATE TABLE much AS SELECT repeat('x', 1000) AS body FROM generate_series(1, 20000)"]).await;
    let found = only(&server, "postgres.slot_retaining", &[("warning", 1e7)]).await;
    assert!(
        found.summary.contains("replica keeps") && found.summary.contains("nobody reads from it"),
        "{}",
        found.summary
    );
    for _ in 0..12 {
        run(&server, &["INSERT INTO much SELECT * FROM much LIMIT 10000", "SELECT pg_switch_wal()", "CHECKPOINT"])
            .await;
    }
    let found = only(&server, "postgres.slot_retaining", &[]).await;
    assert!(found.summary.contains("has lost its WAL"), "{}", found.summary);
}

#[tokio::test]
async fn an_index_that_a_failed_build_left_is_found_and_one_that_is_being_built_is_not() {
    let server = started(PostgresOptions::default()).await;
    run(&server, &["CREATE TABLE notes (id int, word text)", "INSERT INTO notes VALUES (1, 'a'), (1, 'b')"]).await;
    let check = "postgres.index_invalid";
    // The build waits for this transaction, with its index there and invalid.
    let writer = server.client().await;
    writer.batch_execute("BEGIN; INSERT INTO notes VALUES (2, 'c')").await.unwrap();
    let builder = server.client().await;
    let building =
        tokio::spawn(
            async move { builder.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY notes_id ON notes (id)").await },
        );
    let until = Instant::now() + Duration::from_secs(20);
    let being_built = |seen: &Postgres| {
        seen.structure.indexes.as_ref().unwrap().iter().any(|index| index.is_being_built && !index.is_valid)
    };
    while !being_built(&seen(&server.url()).await) {
        assert!(Instant::now() < until, "the build does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(findings(&server, check, &[]).await, []);
    writer.batch_execute("ROLLBACK").await.unwrap();
    assert!(building.await.unwrap().is_err(), "two rows have the same id");
    let found = only(&server, check, &[]).await;
    assert!(found.fix.contains("REINDEX INDEX CONCURRENTLY \"public\".\"notes_id\""), "{}", found.fix);

    // A REINDEX that fails leaves what it had begun, with a name of its own.
    assert!(server.client().await.batch_execute("REINDEX INDEX CONCURRENTLY notes_id").await.is_err());
    let found = only(&server, check, &[]).await;
    assert!(found.offenders.iter().any(|one| one.note.contains("left by a REINDEX")), "{:#?}", found.offenders);
}

#[tokio::test]
async fn duplicate_and_overlapping_indexes_are_found_and_what_differs_is_not() {
    let server = started(PostgresOptions::default()).await;
    run(
        &server,
        &[
            "CREATE TABLE notes (id int PRIMARY KEY, tenant int, word text, made timestamptz DEFAULT now())",
            "INSERT INTO notes SELECT n, n % 7, md5(n::text) FROM generate_series(1, 5000) n",
            "CREATE INDEX notes_id_again ON notes (id)",
            "CREATE INDEX notes_tenant ON notes (tenant)",
            "CREATE INDEX notes_tenant_word ON notes (tenant, word)",
            "CREATE INDEX notes_word_desc ON notes (word DESC)",
            "CREATE INDEX notes_word ON notes (word)",
            "CREATE INDEX notes_word_pattern ON notes (word text_pattern_ops)",
            "CREATE INDEX notes_word_collated ON notes (word COLLATE \"C\")",
            "CREATE INDEX notes_lower ON notes (lower(word))",
            "CREATE INDEX notes_upper ON notes (upper(word))",
            "CREATE INDEX notes_recent ON notes (made) WHERE tenant = 1",
            "CREATE INDEX notes_others ON notes (made) WHERE tenant = 2",
            "CREATE INDEX notes_hash ON notes USING hash (made)",
            "ANALYZE notes",
        ],
    )
    .await;
    let limits = [("minimum_size", 8_192.0)];
    let twice = only(&server, "postgres.index_duplicate", &limits).await;
    assert_eq!(twice.offenders.len(), 1, "{:#?}", twice.offenders);
    assert!(
        twice.fix.contains("DROP INDEX CONCURRENTLY \"public\".\"notes_id_again\"; notes_pkey stays"),
        "{}",
        twice.fix
    );
    let begun = only(&server, "postgres.index_overlapping", &limits).await;
    assert_eq!(begun.offenders.len(), 1, "{:#?}", begun.offenders);
    assert!(begun.offenders[0].note.contains("notes_tenant is the beginning of notes_tenant_word"), "{begun:#?}");

    run(&server, &["DROP INDEX notes_id_again", "CREATE INDEX notes_lower_again ON notes (lower(word))"]).await;
    let twice = only(&server, "postgres.index_duplicate", &limits).await;
    assert!(twice.offenders[0].note.starts_with("notes_lower_again is the same as notes_lower"), "{twice:#?}");
}

#[tokio::test]
async fn what_is_wrong_with_keys_constraints_and_triggers_is_found() {
    let server = started(PostgresOptions::default()).await;
    run(
        &server,
        &[
            "CREATE TABLE documents (tenant int, id bigint, PRIMARY KEY (tenant, id))",
            "CREATE TABLE people (id bigint PRIMARY KEY)",
            "CREATE TABLE owners (id numeric PRIMARY KEY)",
            "CREATE TABLE chunks (id int PRIMARY KEY, tenant int, document bigint, author int REFERENCES people,
               owner bigint REFERENCES owners,
               CONSTRAINT chunks_document FOREIGN KEY (tenant, document) REFERENCES documents)",
            "INSERT INTO documents SELECT 1, n FROM generate_series(1, 100) n",
            "INSERT INTO chunks (id, tenant, document) SELECT n, 1, n % 100 + 1 FROM generate_series(1, 20000) n",
            // Of the rows that have an author only: enough to look them up.
            "CREATE INDEX ON chunks (author) WHERE author IS NOT NULL",
            "CREATE INDEX ON chunks (document)",
            "CREATE INDEX ON chunks (owner)",
            "ANALYZE",
        ],
    )
    .await;
    let check = "postgres.foreign_key_without_index";
    let found = only(&server, check, &[]).await;
    assert_eq!(found.offenders.len(), 1, "{:#?}", found.offenders);
    assert!(found.fix.ends_with("ON \"public\".\"chunks\" (\"tenant\", \"document\");"), "{}", found.fix);
    // In any order, and with more behind.
    run(&server, &["CREATE INDEX ON chunks (document, tenant, id)"]).await;
    assert_eq!(findings(&server, check, &[]).await, []);
    let differ = only(&server, "postgres.foreign_key_types_differ", &[]).await;
    let notes: Vec<&str> = differ.offenders.iter().map(|offender| offender.note.as_str()).collect();
    let told = |part: &str| notes.iter().any(|note| note.contains(part));
    assert!(told("chunks_author_fkey (author) to public.people"), "{differ:#?}");
    // Here all operators of the key are those of numeric, to which each of our values is converted.
    assert!(told("chunks_owner_fkey (owner) to public.owners") && notes.len() == 2, "{differ:#?}");

    assert_eq!(findings(&server, "postgres.primary_key_missing", &[]).await, []);
    run(&server, &["CREATE TABLE log (line text)", "CREATE UNLOGGED TABLE scratch (n int)"]).await;
    assert_eq!(only(&server, "postgres.primary_key_missing", &[]).await.offenders.len(), 2);

    run(&server, &["ALTER TABLE chunks ADD CONSTRAINT positive CHECK (id > 0) NOT VALID"]).await;
    let open = only(&server, "postgres.constraint_not_validated", &[]).await;
    assert!(open.fix.contains("VALIDATE CONSTRAINT \"positive\""), "{}", open.fix);
    run(&server, &["ALTER TABLE chunks VALIDATE CONSTRAINT positive"]).await;
    assert_eq!(findings(&server, "postgres.constraint_not_validated", &[]).await, []);

    assert_eq!(findings(&server, "postgres.trigger_disabled", &[]).await, []);
    run(&server, &["ALTER TABLE chunks DISABLE TRIGGER ALL"]).await;
    let off = only(&server, "postgres.trigger_disabled", &[]).await;
    assert_eq!(off.offenders.len(), 6, "two of each foreign key: {off:#?}");
    assert!(off.offenders.iter().any(|one| one.note.ends_with("of the constraint chunks_document")), "{off:#?}");
    let (_, statement) = off.fix.split_once("ALTER TABLE").unwrap();
    run(&server, &[&format!("ALTER TABLE{statement}")]).await;
    assert_eq!(only(&server, "postgres.trigger_disabled", &[]).await.offenders.len(), 5, "the fix works");
}

#[tokio::test]
async fn a_migration_that_waits_and_stops_everybody_behind_it_is_named() {
    let server = started(PostgresOptions::default()).await;
    let owner = role(&server, "owner", "").await;
    run(&server, &["CREATE TABLE notes (id int)", "ALTER TABLE notes OWNER TO owner"]).await;
    let reader = server.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM notes").await.unwrap();
    let migration = server.client_at(&owner).await;
    let pid: i32 = migration.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let altering = tokio::spawn(async move { migration.batch_execute("ALTER TABLE notes ADD COLUMN word text").await });
    waiting(&server, 1).await;
    let other = server.client().await;
    let queued = tokio::spawn(async move { other.query("SELECT count(*) FROM notes", &[]).await });
    waiting(&server, 2).await;
    let found = only(&server, "postgres.blocked_sessions", &[("warning", 0.0)]).await;
    assert!(found.fix.contains(&format!("pg_cancel_backend({pid})")), "{}", found.fix);
    // What the finding says is what helps.
    run(&server, &[&format!("SELECT pg_cancel_backend({pid})")]).await;
    assert!(altering.await.unwrap().is_err());
    queued.await.unwrap().unwrap();
    drop(reader);
}

#[tokio::test]
async fn a_table_that_somebody_has_locked_hides_nothing() {
    let server = started(PostgresOptions::default()).await;
    run(
        &server,
        &[
            "CREATE TABLE documents (id int PRIMARY KEY)",
            "CREATE TABLE chunks (id int PRIMARY KEY, document int REFERENCES documents)",
            "CREATE INDEX ON chunks (document) WHERE document IS NOT NULL",
            "CREATE INDEX ON chunks ((id + 1))",
        ],
    )
    .await;
    let migration = server.client().await;
    migration.batch_execute("BEGIN; LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let structure = seen(&server.url()).await.structure;
    let (indexes, keys) = (structure.indexes.as_ref().unwrap(), structure.foreign_keys.as_ref().unwrap());
    assert_eq!((indexes.len(), keys.unindexed.len()), (4, 0), "{structure:#?}");
    drop(migration);
}

#[tokio::test]
async fn a_catalogue_that_is_hidden_hides_only_what_is_asked_of_it() {
    let server = started(PostgresOptions::default()).await;
    let watcher = role(&server, "watcher", "IN ROLE pg_monitor").await;
    run(&server, &["CREATE TABLE log (line text)", "REVOKE SELECT ON pg_catalog.pg_trigger FROM PUBLIC"]).await;
    let structure = seen(&watcher).await.structure;
    assert!(structure.disabled_triggers.unwrap_err().permission);
    assert_eq!(structure.without_key.unwrap().len(), 1);
    assert!(structure.indexes.is_ok() && structure.foreign_keys.is_ok() && structure.unvalidated.is_ok());
}
