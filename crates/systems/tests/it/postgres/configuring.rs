//! Files of the configuration that lie outside of the data directory.

use super::{DEADLINE, endpoint, role};
use groundskeeper_systems::postgres::configuration::{configuration, rights_to_read_files};
use groundskeeper_testing::scratch::Scratch;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::fs;

#[tokio::test]
async fn what_the_file_of_access_includes_is_read_or_named() {
    let etc = Scratch::new("etc").unwrap();
    let path = |name: &str| etc.path().join(name);
    fs::write(path("pg_hba.conf"), "host all all 127.0.0.1/32 trust\n").unwrap();
    fs::write(path("more.conf"), "host none none 192.0.2.1/32 reject\n").unwrap();
    let options = PostgresOptions::default().set("hba_file", path("pg_hba.conf").display().to_string());
    let server = PostgresServer::start_with(options).await.unwrap();
    let includes = server.major() >= 16;
    if includes {
        fs::write(path("pg_hba.conf"), "include more.conf\nhost all all 127.0.0.1/32 trust\n").unwrap();
    }
    let keeper = endpoint(&role(&server, "keeper", "IN ROLE pg_monitor").await);
    let bare = configuration(&keeper, DEADLINE).await.unwrap();
    assert!(bare.files.is_empty(), "{bare:?}");
    let named = bare.unreadable.iter().any(|told| told.starts_with("what pg_hba.conf includes: permission denied"));
    assert_eq!(named, includes, "{bare:?}");
    if server.major() < 15 {
        return;
    }
    server.client().await.batch_execute(&rights_to_read_files("keeper")).await.unwrap();
    let read = configuration(&keeper, DEADLINE).await.unwrap();
    assert!(read.unreadable.is_empty(), "{read:?}");
    assert!(read.files.contains_key(&path("pg_hba.conf")), "{read:?}");
    assert_eq!(read.files.contains_key(&path("more.conf")), includes, "{read:?}");
}
