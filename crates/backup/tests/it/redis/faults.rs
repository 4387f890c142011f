//! Bad days of a Redis: each is really caused, and no set comes of it.

use super::{Scene, fill_much, run};
use crate::scene::now;
use groundskeeper_backup::Error;
use groundskeeper_testing::{Cutter, Flipper};
use rstest::rstest;
use std::net::SocketAddr;

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_way_leaves_no_set() {
    for arguments in [["--repl-diskless-sync", "yes"], ["--repl-diskless-sync", "no"]] {
        let scene = Scene::new(&arguments).await;
        fill_much(&scene.server, 200_000).await;
        let proxy = Flipper::start(SocketAddr::from(([127, 0, 0, 1], scene.server.port())), 100_000).await.unwrap();
        let error = scene.by(&format!("redis://{}", proxy.address())).make(Vec::new(), now()).await.unwrap_err();
        assert!(matches!(&error, Error::Source { system, .. } if system == "redis.cache"), "{error:?}");
        assert!(error.to_string().contains("CRC64") && error.retryable(), "{error}");
        scene.nothing_is_half_made().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_leaves_no_set() {
    for arguments in [["--repl-diskless-sync", "yes"], ["--repl-diskless-sync", "no"]] {
        let scene = Scene::new(&arguments).await;
        fill_much(&scene.server, 200_000).await;
        let proxy = Cutter::start(SocketAddr::from(([127, 0, 0, 1], scene.server.port())), 100_000).await.unwrap();
        let error = scene.by(&format!("redis://{}", proxy.address())).make(Vec::new(), now()).await.unwrap_err();
        assert!(error.to_string().contains("hung up before the RDB file was whole") && error.retryable(), "{error}");
        scene.nothing_is_half_made().await;
    }
}

#[rstest]
#[case::to_copy("+info +replconf", "the user keeper may not copy its data; allow it: ACL SETUSER keeper +psync")]
#[case::to_copy_as_a_replica("+info", "ACL SETUSER keeper +psync +replconf")]
#[case::to_ask("+psync", "ACL SETUSER keeper +info +config|get +psync +replconf")]
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_is_told_which_one(#[case] rights: &str, #[case] told: &str) {
    let scene = Scene::new(&[]).await;
    let mut connection = scene.server.connection().await;
    run(&mut connection, &format!("ACL SETUSER keeper on >pw {rights}")).await;
    let vault = scene.by(&format!("redis://keeper:pw@127.0.0.1:{}", scene.server.port()));
    let error = vault.make(Vec::new(), now()).await.unwrap_err();
    assert!(error.to_string().contains(told) && !error.retryable(), "{error}");
    scene.nothing_is_half_made().await;
    // What it is told is enough, and no more is.
    let grant = told.split_once("ACL ").unwrap().1;
    run(&mut connection, &format!("ACL {grant}")).await;
    assert!(vault.make(Vec::new(), now()).await.unwrap().is_whole());
}
