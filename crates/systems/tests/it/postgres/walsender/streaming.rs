//! WAL as it is written, through a slot.

use super::{BOUND, replicate, text, until};
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::walsender::{Piece, WalSenderError, WalStream};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::Client;

const SLOT: &str = "groundskeeper_test";
const SEGMENT: u64 = 16 << 20;

async fn end_of_wal(admin: &Client) -> Lsn {
    text(admin, "pg_current_wal_flush_lsn()").await.parse().unwrap()
}

/// Everything up to `until`, which must follow on each other.
async fn received(stream: &mut WalStream, start: Lsn, until: Lsn) -> Vec<u8> {
    let mut bytes = Vec::new();
    while start.0 + (bytes.len() as u64) < until.0 {
        match timeout(BOUND, stream.next()).await.unwrap().unwrap() {
            Piece::Data { start: at, bytes: data, end } => {
                assert_eq!(at.0, start.0 + bytes.len() as u64, "the next byte comes next");
                assert!(end.0 >= at.0 + data.len() as u64);
                bytes.extend_from_slice(&data);
            }
            Piece::Keepalive { .. } => {}
            Piece::End(next) => panic!("the timeline ended: {next:?}"),
        }
    }
    bytes
}

#[tokio::test]
async fn wal_is_the_servers_own_and_only_what_is_reported_as_flushed_is_let_go() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    let mut sender = replicate(&server.url()).await.unwrap();
    assert_eq!(sender.slot(SLOT).await.unwrap(), None);
    sender.create_slot(SLOT).await.unwrap();
    let kept = sender.slot(SLOT).await.unwrap().unwrap().kept_from.unwrap();
    admin.batch_execute("CREATE TABLE t AS SELECT repeat('x', 100) FROM generate_series(1, 20000)").await.unwrap();
    let identity = sender.identify().await.unwrap();

    let start = Lsn(kept.0 / SEGMENT * SEGMENT);
    let mut stream = sender.stream(SLOT, start, identity.timeline).await.unwrap();
    let end = end_of_wal(&admin).await;
    let bytes = received(&mut stream, start, end).await;
    let file = format!("{:08X}{:08X}{:08X}", identity.timeline, start.0 >> 32, (start.0 & 0xffff_ffff) / SEGMENT);
    let theirs = std::fs::read(server.data_dir().join("pg_wal").join(file)).unwrap();
    let shared = bytes.len().min(theirs.len());
    assert!(shared > 2 << 20 && bytes[..shared] == theirs[..shared], "{shared}");

    let safe = Lsn(kept.0 + 4096);
    stream.report(end, safe, Timestamp::UNIX_EPOCH).await.unwrap();
    let stands = |at: Lsn| format!("EXISTS (SELECT FROM pg_replication_slots WHERE restart_lsn = '{at}')");
    until(&admin, &stands(safe)).await;
    let row = text(&admin, "SELECT (write_lsn, flush_lsn) FROM pg_stat_replication").await;
    assert_eq!(row, format!("({end},{safe})"), "what has arrived is not what is safe");
    // Each report is answered, so that a server with nothing to write is known to be there.
    let answered = timeout(BOUND, async { while !matches!(stream.next().await.unwrap(), Piece::Keepalive { .. }) {} });
    answered.await.unwrap();

    let second = replicate(&server.url()).await.unwrap().stream(SLOT, start, identity.timeline).await.unwrap_err();
    assert!(matches!(second, WalSenderError::SlotBusy { .. }) && second.retryable(), "{second:?}");
    stream.close().await;
    let mut sender = replicate(&server.url()).await.unwrap();
    sender.drop_slot(SLOT).await.unwrap();
    assert_eq!(sender.slot(SLOT).await.unwrap(), None);
    let gone = sender.stream(SLOT, start, identity.timeline).await.unwrap_err();
    assert!(gone.to_string().contains(SLOT), "{gone}");
}

#[tokio::test]
async fn wal_that_the_server_has_removed_is_an_error_of_its_own() {
    let options = PostgresOptions::default().set("min_wal_size", "32MB").set("max_wal_size", "32MB");
    let server = PostgresServer::start_with(options).await.unwrap();
    let admin = server.client().await;
    let start = Lsn(end_of_wal(&admin).await.0 / SEGMENT * SEGMENT);
    admin.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    for _ in 0..4 {
        admin.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        admin.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        admin.batch_execute("CHECKPOINT").await.unwrap();
    }
    let mut sender = replicate(&server.url()).await.unwrap();
    sender.create_slot(SLOT).await.unwrap();
    let mut stream = sender.stream(SLOT, start, 1).await.unwrap();
    let error = timeout(BOUND, async {
        loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        }
    });
    let error = error.await.unwrap();
    assert!(matches!(error, WalSenderError::WalGone { .. }) && !error.retryable(), "{error:?}");
}

#[tokio::test]
async fn a_timeline_that_ended_says_where_the_next_one_begins() {
    let mut server = PostgresServer::start().await.unwrap();
    let mut sender = replicate(&server.url()).await.unwrap();
    sender.create_slot(SLOT).await.unwrap();
    sender.close().await;
    server.stop().await.unwrap();
    std::fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start_again().await.unwrap();
    let admin = server.client().await;
    assert_eq!(text(&admin, "SELECT pg_promote()").await, "true");
    admin.batch_execute("CREATE TABLE after (n int)").await.unwrap();

    let mut sender = replicate(&server.url()).await.unwrap();
    assert_eq!(sender.identify().await.unwrap().timeline, 2);
    let kept = sender.slot(SLOT).await.unwrap().unwrap().kept_from.unwrap();
    let mut stream = sender.stream(SLOT, Lsn(kept.0 / SEGMENT * SEGMENT), 1).await.unwrap();
    let ended = timeout(BOUND, async {
        loop {
            if let Piece::End(next) = stream.next().await.unwrap() {
                break next.unwrap();
            }
        }
    });
    let next = ended.await.unwrap();
    assert_eq!(next.timeline, 2);
    let mut sender = stream.into_sender();
    let history = sender.history(2).await.unwrap();
    assert_eq!(history.file, "00000002.history");
    let left = String::from_utf8(history.content).unwrap();
    assert!(left.contains(&format!("1\t{}", next.start)), "{left}");
    // At the very end of the old one there is nothing to copy, and it says so.
    let mut stream = sender.stream(SLOT, next.start, 1).await.unwrap();
    assert_eq!(timeout(BOUND, stream.next()).await.unwrap().unwrap(), Piece::End(Some(next)));
    let start = Lsn(next.start.0 / SEGMENT * SEGMENT);
    let mut stream = stream.into_sender().stream(SLOT, start, 2).await.unwrap();
    let end = end_of_wal(&admin).await;
    received(&mut stream, start, end).await;
}
