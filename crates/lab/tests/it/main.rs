//! The fault matrix as a test: every fault alone, on one live stack.

use groundskeeper_lab::faults::{FAULTS, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_stack_is_silent_and_every_fault_gives_exactly_its_finding() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut scene = Scene::start().await.unwrap();
    scene.stays_silent(3).await.unwrap();
    for fault in FAULTS {
        let outcome = scene.play(fault).await.unwrap_or_else(|error| panic!("{}: {error:#}", fault.name));
        println!("{}: {} ({:.1?})", fault.name, outcome.finding.finding.summary, outcome.detected);
    }
    scene.stays_silent(2).await.unwrap();
    scene.stop().await;
}
