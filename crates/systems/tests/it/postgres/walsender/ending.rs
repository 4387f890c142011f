//! Ends of a backup that a real server shows rarely: here they are written out.

use super::{begin, failing, replicate, take};
use groundskeeper_systems::postgres::walsender::{BaseBackup, WalSenderError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn row(columns: &[Option<&str>]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        body.extend(column.map_or(-1, |text| text.len() as i32).to_be_bytes());
        body.extend(column.unwrap_or_default().as_bytes());
    }
    message(b'D', &body)
}

fn result(rows: &[Vec<u8>]) -> Vec<u8> {
    [message(b'T', &[0, 0]), rows.concat(), message(b'C', b"SELECT\0")].concat()
}

fn data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn login(version: &str) -> Vec<u8> {
    let version = message(b'S', format!("server_version\0{version}\0").as_bytes());
    [message(b'R', &[0; 4]), version, message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]), ready()].concat()
}

/// What stands before the data: from 0/2000028, the data directory alone.
fn announcement() -> Vec<u8> {
    let start = result(&[row(&[Some("0/2000028"), Some("1")])]);
    [start, result(&[row(&[None, None, Some("10")])]), message(b'H', &[0, 0, 0])].concat()
}

/// A server that lets anybody in, gives one answer to each command, and hangs up.
async fn scripted(version: &str, answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = [vec![login(version)], answers].concat();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        for answer in answers {
            if client.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {
                client.write_all(&answer).await.unwrap();
            }
        }
        client.shutdown().await.unwrap();
        let _ = client.read(&mut [0; 16]).await;
    });
    format!("postgres://u:p@{address}/d?sslmode=disable")
}

/// A backup that goes on like this after its announcement.
async fn backup(rest: &[Vec<u8>]) -> BaseBackup {
    let slot = [result(&[]), ready()].concat();
    let url = scripted("16.3", vec![slot, [announcement(), rest.concat()].concat()]).await;
    begin(&url).await
}

fn archive() -> Vec<u8> {
    data(b"nbase.tar\0\0")
}

fn manifest() -> Vec<u8> {
    [data(b"m"), data(b"d{}")].concat()
}

fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

fn stop() -> Vec<u8> {
    result(&[row(&[Some("0/2000100"), Some("1")])])
}

#[tokio::test]
async fn it_is_whole_when_everything_has_come_and_only_then() {
    let whole = [archive(), data(b"dtar"), manifest(), copy_done(), stop(), message(b'C', b"BASE_BACKUP\0"), ready()];
    let mut good = backup(&whole).await;
    let taken = take(&mut good).await;
    assert_eq!((taken.archives[0].bytes.as_slice(), taken.manifest.as_slice()), (&b"tar"[..], &b"{}"[..]));
    assert_eq!((taken.stop.to_string().as_str(), good.start.to_string().as_str()), ("0/2000100", "0/2000028"));
    for kept in 0..whole.len() {
        let error = failing(&mut backup(&whole[..kept]).await).await;
        assert!(matches!(error, WalSenderError::Cut { .. }), "after {kept} parts: {error:?}");
    }
}

#[tokio::test]
async fn an_error_after_all_data_is_one_of_the_backup() {
    let error = message(b'E', b"SERROR\0VERROR\0CXX001\0Mchecksum verification failure\0\0");
    let failed = [archive(), data(b"dtar"), manifest(), copy_done(), stop(), error, ready()];
    let error = failing(&mut backup(&failed).await).await;
    assert!(matches!(&error, WalSenderError::Server { sqlstate, .. } if sqlstate == "XX001"), "{error:?}");
}

#[tokio::test]
async fn a_stream_in_a_wrong_order_is_no_backup() {
    let end = [copy_done(), stop(), ready()].concat();
    for wrong in [
        vec![data(b"dtar")],
        vec![manifest()],
        vec![copy_done(), stop(), ready()],
        vec![archive(), data(b"dtar"), end.clone()],
        vec![archive(), manifest(), archive(), end.clone()],
        vec![archive(), archive(), manifest(), end.clone()],
        vec![data(b"n16385.tar\0/mnt/unknown\0")],
        vec![data(b"nbase.tar")],
        vec![data(b"")],
        vec![data(b"x")],
        vec![archive(), data(b"p\0\0")],
        vec![archive(), manifest(), copy_done(), ready()],
        vec![archive(), manifest(), copy_done(), result(&[]), ready()],
        vec![archive(), manifest(), copy_done(), result(&[row(&[Some("0/1"), Some("1")])]), ready()],
        vec![archive(), manifest(), copy_done(), result(&[row(&[None, None])]), ready()],
        vec![archive(), manifest(), copy_done(), stop(), stop(), ready()],
        vec![archive(), manifest(), ready()],
    ] {
        let error = failing(&mut backup(&wrong).await).await;
        assert!(matches!(error, WalSenderError::Protocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_before_15_is_refused_with_the_reason() {
    let url = scripted("14.9 (Debian 14.9-1)", Vec::new()).await;
    let sender = replicate(&url).await.unwrap();
    assert_eq!(sender.server_version(), 140_009);
    let error = sender.base_backup("old").await.unwrap_err();
    assert!(matches!(error, WalSenderError::TooOld { major: 14, .. }) && !error.retryable(), "{error:?}");
    assert!(error.to_string().contains("need Postgres 15 or newer in this version"), "{error}");
}
