//! Keys, sessions, scopes and limits, over HTTP and on the command line.

use crate::served::{Served, told};
use docrag::service::Scopes;
use serde_json::{Value, json};
use std::process::{Command, Output};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_good_key_is_told_401_and_the_log_says_why() {
    let served = Served::start().await;
    let (_, expired) = served.make_key("acme", Scopes::ALL, Some("2020-01-01T00:00:00Z")).await;
    let (id, revoked) = served.make_key("acme", Scopes::ALL, None).await;
    let status = |key: String| {
        let request = served.get("/v1/documents").bearer_auth(key).send();
        async { told(request.await.unwrap()).await }
    };
    assert_eq!(served.get("/v1/documents").bearer_auth(&revoked).send().await.unwrap().status(), 200);
    let gone = served.delete(&format!("/v1/keys/{id}")).bearer_auth(&served.key).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    for (key, why) in [(expired, "expired"), (revoked, "revoked"), ("dr_wrong".to_owned(), "unknown")] {
        let answered = status(key).await;
        assert_eq!((answered.status, answered.kind.as_str()), (401, "unauthenticated"));
        assert!(answered.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        assert_eq!(
            answered.body["detail"], "the key or session is unknown, expired or revoked",
            "strangers learn no more"
        );
        let line = served.log().lines().rfind(|line| line.contains("auth failed")).unwrap().to_owned();
        assert!(line.contains(why), "{line}");
    }
    let nothing = told(served.get("/v1/documents").send().await.unwrap()).await;
    assert_eq!(nothing.status, 401);
    let metrics = served.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("docrag_auth_failures_total 3"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_what_its_scopes_say_and_no_more() {
    let served = Served::start().await;
    let only = |read, write, admin| Scopes { read, write, admin };
    let document = json!({"source": "a.txt", "content": "x"});
    for (scopes, read, write, admin) in [
        (only(true, false, false), 200, 403, 403),
        (only(false, true, false), 403, 202, 403),
        (only(false, false, true), 403, 403, 200),
    ] {
        let (_, key) = served.make_key("acme", scopes, None).await;
        let seen = [
            served.get("/v1/documents").bearer_auth(&key).send().await.unwrap(),
            served.post("/v1/documents").bearer_auth(&key).json(&document).send().await.unwrap(),
            served.get("/v1/audit").bearer_auth(&key).send().await.unwrap(),
        ];
        for (response, expected) in seen.into_iter().zip([read, write, admin]) {
            // The second write of the same is `unchanged`.
            assert_eq!(response.status().as_u16(), expected, "{scopes:?}");
            if expected == 403 {
                assert_eq!(told(response).await.kind, "forbidden");
            }
        }
    }
    let body = json!({"name": "ci", "scopes": ["read"], "expires_at": "2999-01-01T00:00:00Z"});
    let made: Value = served.send("/v1/keys", body).await.json().await.unwrap();
    let listed = served.read("/v1/keys").await;
    assert!(!listed.to_string().contains(made["secret"].as_str().unwrap()), "a secret is shown once");
    let mine = served.get("/v1/sessions/current").bearer_auth(made["secret"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(mine.json::<Value>().await.unwrap()["scopes"], json!(["read"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_works_by_its_cookie_from_our_own_page_only_until_it_ends() {
    let served = Served::start().await;
    let login = served.post("/v1/sessions").json(&json!({"key": served.key})).send().await.unwrap();
    assert_eq!(login.status(), 201);
    let cookie = login.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let write = |site: &'static str| {
        let request = served.post("/v1/documents").header("cookie", pair).header("sec-fetch-site", site);
        request.json(&json!({"source": "a.txt", "content": "x"})).send()
    };
    assert_eq!(write("same-origin").await.unwrap().status(), 202);
    let foreign = told(write("cross-site").await.unwrap()).await;
    assert_eq!((foreign.status, foreign.kind.as_str()), (403, "cross-origin"));
    assert_eq!(served.get("/v1/documents").header("cookie", pair).send().await.unwrap().status(), 200);
    let end = served.delete("/v1/sessions/current").header("cookie", pair).header("sec-fetch-site", "same-origin");
    assert_eq!(end.send().await.unwrap().status(), 204);
    let after = served.get("/v1/documents").header("cookie", pair).send().await.unwrap();
    assert_eq!(told(after).await.status, 401);
    let refused = served.post("/v1/sessions").json(&json!({"key": "dr_wrong"})).send().await.unwrap();
    assert_eq!(told(refused).await.status, 401);
    let logins = "SELECT count(*) FROM audit_logs WHERE action = 'session.login' AND outcome = ";
    assert_eq!(served.scene.number(&format!("{logins}'done'")).await, 1);
    assert_eq!(served.scene.number(&format!("{logins}'refused'")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_of_a_key_and_too_many_wrong_keys_are_429() {
    let served = Served::start_with("[limits]\nrequests_per_minute = 5\nfailed_logins_per_minute = 3\n").await;
    let mut last = None;
    for _ in 0..6 {
        last = Some(served.get("/v1/corpora").bearer_auth(&served.key).send().await.unwrap());
    }
    let answered = told(last.unwrap()).await;
    assert_eq!((answered.status, answered.kind.as_str()), (429, "rate-limited"));
    let wait: u64 = answered.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(answered.headers["ratelimit-remaining"], "0");
    let mut statuses = Vec::new();
    for number in 0..5 {
        let wrong = served.get("/v1/corpora").bearer_auth(format!("dr_{number}")).send().await.unwrap();
        statuses.push(told(wrong).await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    let log = served.log();
    assert_eq!(log.lines().filter(|line| line.contains("auth failed")).count(), 5);
    assert_eq!(log.lines().filter(|line| line.contains("rate limit")).count(), 3);

    let (_, other) = served.make_key("acme", Scopes::ALL, None).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let login = served.post("/v1/sessions").json(&json!({"key": other})).send().await.unwrap();
        statuses.push(login.status().as_u16());
    }
    assert_eq!(statuses, [201, 201, 201, 201, 201, 429], "a login is a request like any other");
    assert_eq!(served.scene.number("SELECT count(*) FROM user_sessions").await, 5);
}

fn docrag(served: &Served, arguments: &[&str]) -> Output {
    let config = served.folder.path().join("docrag.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_docrag"));
    command.arg("--config").arg(config).args(arguments).env_remove("DATABASE_URL").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_keys_ingests_and_tells_how_it_went() {
    let served = Served::start().await;
    let made = docrag(&served, &["key", "create", "ci", "--tenant", "acme", "--scope", "read,write"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let secret = text(&made.stdout).trim().to_owned();
    assert!(secret.starts_with("dr_") && secret.lines().count() == 1, "{secret}");
    assert!(!text(&docrag(&served, &["key", "list"]).stdout).contains(&secret));

    let folder = served.folder.path().join("docs");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("good.md"), "# Vacuum\n\nIt removes dead row versions.").unwrap();
    std::fs::write(folder.join("empty.txt"), "").unwrap();
    let folder = folder.to_str().unwrap();
    let here = docrag(&served, &["--output", "json", "ingest", folder, "--tenant", "acme"]);
    let summary: Value = serde_json::from_slice(&here.stdout).unwrap_or_else(|_| panic!("{}", text(&here.stderr)));
    assert_eq!(
        (&summary["indexed"], &summary["failed"], here.status.code()),
        (&1.into(), &1.into(), Some(1)),
        "{summary}"
    );
    let error = summary["failures"][0]["error"].as_str().unwrap();
    assert!(error.contains("empty"), "{error}");
    let there = docrag(&served, &["ingest", &format!("{folder}/good.md"), "--url", &served.url, "--key", &secret]);
    assert!(text(&there.stdout).contains("1 unchanged"), "{}{}", text(&there.stdout), text(&there.stderr));
    let both = docrag(&served, &["search", "x", "--tenant", "acme", "--url", &served.url, "--key", &secret]);
    assert_eq!(both.status.code(), Some(2), "a key has its tenant");
    assert!(text(&both.stderr).contains("acme"), "{}", text(&both.stderr));
    let lost = docrag(&served, &["search", "x", "--corpus", "lost", "--url", &served.url, "--key", &secret]);
    assert!(!text(&lost.stderr).contains("is this the address"), "{}", text(&lost.stderr));
    let status = docrag(&served, &["status"]);
    assert!(text(&status.stdout).contains("acme"), "{}", text(&status.stdout));
    let found = docrag(&served, &["search", "dead rows", "--tenant", "acme", "--mode", "lexical"]);
    assert!(text(&found.stdout).contains("good.md"), "{}{}", text(&found.stdout), text(&found.stderr));
    let again = docrag(&served, &["reindex"]);
    assert!(text(&again.stdout).starts_with("One process has"), "{}{}", text(&again.stdout), text(&again.stderr));
    let wrong = docrag(&served, &["ingest", "/nowhere"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("/nowhere"), "{}", text(&wrong.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unchanged_and_not_searchable_yet_is_waited_for() {
    let served = Served::start().await;
    let file = served.folder.path().join("slow.txt");
    std::fs::write(&file, "Vacuum removes dead row versions.").unwrap();
    let remote: [&str; 7] = ["ingest", file.to_str().unwrap(), "--url", &served.url, "--key", &served.key, "--no-wait"];
    served.scene.endpoint.set_delay(Duration::from_secs(3));
    assert!(docrag(&served, &remote).status.success());
    let waited = docrag(&served, &remote[..6]);
    let shown = text(&waited.stdout);
    assert!(shown.contains("1 unchanged") && shown.contains("1 searchable in 1 chunks"), "{shown}");
    assert_eq!(served.read("/v1/documents").await["items"][0]["state"], "indexed");
}
