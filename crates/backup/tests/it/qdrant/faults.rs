//! Bad days of a Qdrant: each is really caused, and no set comes of it.

use super::{Scene, settings};
use crate::scene::now;
use groundskeeper_backup::{Error, Vault};
use groundskeeper_testing::scratch::Scratch;
use groundskeeper_testing::{Cutter, Flipper};

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_harmed_or_cut_leaves_no_set_and_no_snapshot_at_the_server() {
    let scene = Scene::new("harmed").await;
    if scene.server.is_none() {
        // A proxy before a server elsewhere would need its name.
        return scene.clean().await;
    }
    let flipper = Flipper::start(scene.address(), 50_000).await.unwrap();
    let error = scene.by(flipper.address()).make(Vec::new(), now()).await.unwrap_err();
    assert!(matches!(&error, Error::Source { system, .. } if system == "qdrant.main"), "{error:?}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(scene.snapshots().await, 0);

    let cutter = Cutter::start(scene.address(), 50_000).await.unwrap();
    let error = scene.by(cutter.address()).make(Vec::new(), now()).await.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    assert_eq!(scene.snapshots().await, 0);
    assert_eq!(scene.vault.receipts().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_are_no_cluster_are_refused() {
    let scene = Scene::new("two").await;
    let two = settings(&[&scene.url, &scene.url], scene.folder.path());
    let error = Vault::new(two).make(Vec::new(), now()).await.unwrap_err();
    assert!(error.to_string().contains("in no cluster") || error.to_string().contains("the same node"), "{error}");
    scene.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qdrant_that_is_gone_is_named() {
    let folder = Scratch::new("qdrant-backup").unwrap();
    let vault = Vault::new(settings(&["http://127.0.0.1:1"], folder.path()));
    vault.init().await.unwrap();
    let error = vault.make(Vec::new(), now()).await.unwrap_err();
    assert!(error.to_string().contains("qdrant.main: http://127.0.0.1:1: ") && error.retryable(), "{error}");
}
