//! The API against its own description, by schemathesis (PyPI): no 500, and no answer that is not described.

use crate::served::Served;
use std::path::PathBuf;
use std::process::Command;

fn program() -> PathBuf {
    let program = groundskeeper_testing::scratch::cache().join("schemathesis/bin/schemathesis");
    assert!(program.exists(), "{} is missing; run `cargo xtask setup`", program.display());
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_that_breaks_and_nothing_that_is_not_described() {
    let program = program();
    let served = Served::start_with("[limits]\nrequests_per_minute = 0\nfailed_logins_per_minute = 0\n").await;
    // Something to find, to list and to delete.
    served.ingest("a.txt", "text/plain", "Every page of a heap is 8192 bytes large.").await;
    let mut command = Command::new(program);
    command
        .args(["run", &format!("{}/openapi.json", served.url)])
        .args(["--header", &format!("Authorization: Bearer {}", served.key)])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "12",
            "--max-time",
            "40",
            "--seed",
            "1",
            "--workers",
            "2",
        ])
        // Revoking its own key or ending its own session would end the run early.
        .args(["--continue-on-failure", "--suppress-health-check", "all", "--generation-database", "none"])
        .current_dir(served.folder.path());
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(!served.log().contains("panicked"), "{}", served.log());
}
