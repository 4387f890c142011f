//! The HTTP surface: what it refuses and how, what it tells, and how it goes.

use crate::served::{Served, told};
use docrag::service::Scopes;
use reqwest::Body;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_document_goes_in_is_found_and_goes_out_again() {
    let served = Served::start().await;
    let id = served.ingest("pages.txt", "text/plain", "Every page of a heap is 8192 bytes large.").await;
    let same = json!({"source": "pages.txt", "media_type": "text/plain",
        "content": "Every page of a heap is 8192 bytes large."});
    let again = served.send("/v1/documents", same).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap()["outcome"], "unchanged");
    let listed = served.read("/v1/documents?state=indexed&limit=1").await;
    assert_eq!(listed["items"][0]["id"], id.as_str());
    let found = served.send("/v1/search", json!({"query": "page size", "mode": "lexical"})).await;
    assert_eq!(found.headers()["ratelimit-limit"], "600");
    assert_eq!(found.json::<Value>().await.unwrap()["passages"][0]["doc_id"], id.as_str());
    let asked = served.post("/v1/ask").bearer_auth(&served.key).json(&json!({"question": "How large is a page?"}));
    let events = asked.send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let text = events.text().await.unwrap();
    assert!(text.contains("event: passages") && text.contains("event: done"), "{text}");
    let whole = served.post("/v1/ask").bearer_auth(&served.key).header("accept", "application/json");
    let whole: Value =
        whole.json(&json!({"question": "How large is a page?"})).send().await.unwrap().json().await.unwrap();
    assert!(whole["reason"].as_str().unwrap().contains("model is configured"), "{whole}");
    let held = served.get("/v1/admin/index").bearer_auth(&served.key).send().await.unwrap().text().await.unwrap();
    assert_eq!(held.lines().count(), 1, "{held}");
    let line: Value = serde_json::from_str(held.lines().next().unwrap()).unwrap();
    assert_eq!(line["chunk_hash"].as_str().unwrap().len(), 64);

    let gone = served.delete(&format!("/v1/documents/{id}")).bearer_auth(&served.key).send().await.unwrap();
    assert_eq!(gone.status(), 202);
    let shown = served.get(&format!("/v1/documents/{id}")).bearer_auth(&served.key).send().await.unwrap();
    assert_eq!(told(shown).await.status, 404);
    let audit = served.read("/v1/audit").await;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["document.delete", "document.create", "key.create"], "one write each, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_own_status_and_a_problem_that_says_what_is_wrong() {
    let served = Served::start_with("[limits]\nbody_bytes = 65536\nrequest_bytes = 4096\n").await;
    let text = |content: &str| json!({"source": "a.txt", "media_type": "text/plain", "content": content}).to_string();
    let long = "x".repeat(5_000);
    let id = "00000000-0000-0000-0000-000000000001";
    for (method, path, body, status, kind) in [
        ("POST", "/v1/documents", text(""), 422, "invalid"),
        ("POST", "/v1/documents", text(&"x".repeat(70_000)), 413, "too-large"),
        ("POST", "/v1/documents", json!({"source": "a.txt"}).to_string(), 422, "invalid"),
        ("POST", "/v1/documents", json!({"source": "a\0b", "content": "x"}).to_string(), 422, "invalid"),
        ("POST", "/v1/documents", json!({"source": "a", "content_base64": "/+7="}).to_string(), 422, "invalid"),
        // Binary rubbish: an ELF header.
        (
            "POST",
            "/v1/documents",
            json!({"source": "a", "content_base64": "f0VMRgIBAQAAAAAA"}).to_string(),
            422,
            "invalid",
        ),
        ("POST", "/v1/documents", json!({"source": "a", "content": "x", "surprise": 1}).to_string(), 422, "invalid"),
        ("POST", "/v1/documents", "{\"source\": ".to_owned(), 400, "bad-json"),
        ("POST", "/v1/search", "not json".to_owned(), 400, "bad-json"),
        ("POST", "/v1/search", "{}".to_owned(), 422, "invalid"),
        ("POST", "/v1/search", json!({"query": " "}).to_string(), 422, "invalid"),
        ("POST", "/v1/search", json!({"query": "x", "limit": 0}).to_string(), 422, "invalid"),
        ("POST", "/v1/search", json!({"query": long}).to_string(), 413, "too-large"),
        (
            "POST",
            "/v1/search",
            json!({"query": "x", "filter": {"metadata": {"a'; DROP TABLE documents": {}}}}).to_string(),
            422,
            "invalid",
        ),
        ("GET", "/v1/documents/not-a-uuid", String::new(), 404, "not-found"),
        ("GET", &format!("/v1/documents/{id}"), String::new(), 404, "not-found"),
        ("DELETE", &format!("/v1/keys/{id}"), String::new(), 404, "not-found"),
        ("GET", "/v1/documents?state=lost", String::new(), 422, "invalid"),
        ("GET", "/v1/documents?limit=0", String::new(), 422, "invalid"),
        ("GET", "/v1/documents?cursor=x", String::new(), 422, "invalid"),
        ("GET", "/v1/documents?corpus=%00", String::new(), 422, "invalid"),
        ("PUT", "/v1/corpora/none/mode", json!({"search_mode": "dense"}).to_string(), 404, "not-found"),
        ("GET", "/v1/nothing", String::new(), 404, "not-found"),
        ("PATCH", "/v1/search", String::new(), 405, "method-not-allowed"),
    ] {
        let method = method.parse().unwrap();
        let request = served.client.request(method, format!("{}{path}", served.url)).bearer_auth(&served.key);
        let response = request.header("content-type", "application/json").body(body.clone()).send().await.unwrap();
        let answered = told(response).await;
        assert_eq!((answered.status, answered.kind.as_str()), (status, kind), "{path} {body}: {:?}", answered.body);
    }
    let form = served.post("/v1/search").bearer_auth(&served.key).header("content-type", "text/plain").body("query=x");
    let answered = told(form.send().await.unwrap()).await;
    assert_eq!((answered.status, answered.kind.as_str()), (415, "unsupported-media-type"));
    let upload = served.post("/v1/documents").bearer_auth(&served.key);
    let upload = upload.header("content-type", "multipart/form-data; boundary=b").body("--b\r\nrubbish");
    assert_eq!(told(upload.send().await.unwrap()).await.kind, "bad-multipart");
    let state = served.read("/v1/status").await;
    assert_eq!(state["corpora"], json!([]), "nothing of all this was taken in");
    assert!(!served.log().contains("panicked"), "{}", served.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_end_is_refused_at_the_limit_and_text_in_another_encoding_is_read() {
    let served = Served::start_with("[limits]\nbody_bytes = 65536\nrequest_bytes = 4096\n").await;
    for kind in ["application/json", "multipart/form-data; boundary=b"] {
        let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n";
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(head.as_bytes().to_vec())]);
        let endless = futures_util::stream::repeat_with(|| Ok(vec![b'x'; 8_192]));
        let body = Body::wrap_stream(futures_util::StreamExt::chain(first, endless));
        let began = Instant::now();
        let request = served.post("/v1/documents").bearer_auth(&served.key).header("content-type", kind).body(body);
        let answered = told(request.send().await.unwrap()).await;
        assert_eq!((answered.status, answered.kind.as_str()), (413, "too-large"), "{kind}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    let latin = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"l.txt\"\r\n\r\n\
        Die Gr\xf6\xdfe einer Seite betr\xe4gt 8192 Bytes.\r\n--b--\r\n";
    let upload = served.post("/v1/documents").bearer_auth(&served.key);
    let upload = upload.header("content-type", "multipart/form-data; boundary=b").body(latin.to_vec());
    assert_eq!(upload.send().await.unwrap().status(), 202);
    let found = || async {
        let request = json!({"query": "Größe", "mode": "lexical"});
        let response: Value = served.send("/v1/search", request).await.json().await.unwrap();
        response["passages"][0]["content"].as_str().is_some_and(|text| text.contains("Größe"))
    };
    crate::scene::eventually("the text is found by its umlauts", found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_id_in_the_header_the_problem_the_log_and_the_audit_log() {
    let served = Served::start().await;
    let sent = served.post("/v1/documents").bearer_auth(&served.key).header("x-request-id", "trace-42");
    let sent = sent.json(&json!({"source": "a.md", "content": "# Hello"})).send().await.unwrap();
    assert_eq!(sent.headers()["x-request-id"], "trace-42");
    let audit = served.read("/v1/audit").await;
    assert_eq!(audit["items"][0]["request_id"], "trace-42");
    let missing = served.get("/v1/nothing").header("x-request-id", "bad id\"").send().await.unwrap();
    let answered = told(missing).await;
    assert_ne!(answered.body["request_id"], "bad id\"");
    let line = served.log().lines().find(|line| line.contains("trace-42")).map(str::to_owned);
    let line: Value = serde_json::from_str(&line.expect("the request has its line")).unwrap();
    assert_eq!(
        (&line["path"], &line["tenant"], &line["status"]),
        (&"/v1/documents".into(), &"acme".into(), &202.into())
    );
    assert!(!served.log().contains(&served.key), "no secret in the log");
    let page = served.get("/").send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'"));
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let metrics = served.get("/metrics").send().await.unwrap().text().await.unwrap();
    let counted = r#"http_requests_total{method="POST",path="/v1/documents",status="202"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_postgres_away_and_back_and_nothing_else_breaks() {
    let mut served = Served::start().await;
    let id = served.ingest("a.txt", "text/plain", "Vacuum removes dead row versions.").await;
    served.scene.postgres.stop().await.unwrap();
    let answered = told(served.get("/health/ready").send().await.unwrap()).await;
    assert_eq!((answered.status, answered.kind.as_str()), (503, "not-ready"));
    let postgres =
        answered.body["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == "postgres").unwrap();
    assert_eq!((&postgres["ok"], &postgres["required"]), (&false.into(), &true.into()));
    assert_eq!(served.get("/health/live").send().await.unwrap().status(), 200);
    let answered = told(served.send("/v1/documents", json!({"source": "b.txt", "content": "b"})).await).await;
    assert_eq!((answered.status, answered.kind.as_str()), (503, "database-unavailable"));
    assert!(answered.headers.contains_key("retry-after"));
    served.scene.postgres.start_again().await.unwrap();
    served.until_ready().await;
    assert_eq!(served.read(&format!("/v1/documents/{id}")).await["state"], "indexed");
    served.ingest("b.txt", "text/plain", "It goes on.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_request_is_finished_after_sigterm_and_readiness_turns_first() {
    let mut served = Served::start().await;
    let address = served.url.trim_start_matches("http://").to_owned();
    let body = json!({"source": "late.txt", "content": "It arrives while the service shuts down."}).to_string();
    let (first, second) = body.split_at(20);
    let mut upload = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /v1/documents HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{first}",
        served.key,
        body.len()
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    // Its handler is waiting for the rest of the body when the signal comes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill_process(served.pid(), Signal::TERM).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answered = told(served.get("/health/ready").send().await.unwrap()).await;
    assert_eq!((answered.status, answered.kind.as_str()), (503, "not-ready"));
    let closed = || async { TcpStream::connect(&address).await.is_err() };
    crate::scene::eventually("no new connection is taken", closed).await;
    upload.write_all(second.as_bytes()).await.unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(served.ended().await.success(), "{}", served.log());
    let stored = served.scene.number("SELECT count(*) FROM documents WHERE source = 'late.txt'").await;
    assert_eq!(stored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_would_fill_the_memory_are_told_to_come_back() {
    // Room for two of the longest bodies, 135,168 bytes each.
    let served = Served::start_with("[limits]\nbody_bytes = 65536\nrequest_bytes = 4096\n").await;
    let address = served.url.trim_start_matches("http://").to_owned();
    let head = format!(
        "POST /v1/documents HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 135000\r\n\r\n{{",
        served.key
    );
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut upload = TcpStream::connect(&address).await.unwrap();
        upload.write_all(head.as_bytes()).await.unwrap();
        open.push(upload);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let long = json!({"source": "a.txt", "content": "x ".repeat(20_000)});
    let answered = told(served.send("/v1/documents", long.clone()).await).await;
    assert_eq!((answered.status, answered.kind.as_str()), (503, "busy"));
    assert!(answered.headers.contains_key("retry-after"));
    drop(open);
    assert_eq!(served.send("/v1/documents", long).await.status(), 202, "whoever hung up gave its room back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedders_tokens_and_its_breaker_are_among_the_figures() {
    let served = Served::start().await;
    served.ingest("a.txt", "text/plain", "Vacuum removes dead row versions.").await;
    let metrics = served.get("/metrics").send().await.unwrap().text().await.unwrap();
    let tokens = metrics.lines().find_map(|line| line.strip_prefix("docrag_tokens_total{kind=\"embedding\"} "));
    // The endpoint bills a token a request: at least one for the pinned texts, and one for this document.
    assert!(tokens.is_some_and(|tokens| tokens.parse::<u64>().unwrap() >= 2), "{metrics}");
    let breaker = format!("docrag_breaker_open{{endpoint=\"{}\"}} 0", served.scene.endpoint.url());
    assert!(metrics.contains(&breaker), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corpus_that_is_given_another_mode_is_searched_so_at_once() {
    let served = Served::start().await;
    served.ingest("a.txt", "text/plain", "Vacuum removes dead row versions.").await;
    for mode in ["lexical", "dense", "hybrid"] {
        let set = served.client.put(format!("{}/v1/corpora/default/mode", served.url)).bearer_auth(&served.key);
        assert_eq!(set.json(&json!({"search_mode": mode})).send().await.unwrap().status(), 200);
        let found: Value = served.send("/v1/search", json!({"query": "vacuum"})).await.json().await.unwrap();
        assert_eq!(found["mode"], mode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_does_not_hold_up_the_end() {
    let mut served = Served::start_with("[limits]\ndrain_seconds = 1\n").await;
    let address = served.url.trim_start_matches("http://").to_owned();
    let mut upload = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /v1/documents HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{",
        served.key
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    kill_process(served.pid(), Signal::TERM).unwrap();
    assert!(served.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_documents_leads_to_the_next_and_to_no_other_tenants() {
    let served = Served::start().await;
    for number in 0..5 {
        let document = json!({"source": format!("{number}.txt"), "content": format!("Text {number}")});
        assert_eq!(served.send("/v1/documents", document).await.status(), 202);
    }
    let (_, other) = served.make_key("other", Scopes::ALL, None).await;
    let id = served.read("/v1/documents").await["items"][0]["id"].as_str().unwrap().to_owned();
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        let theirs = served.client.request(method, format!("{}/v1/documents/{id}", served.url)).bearer_auth(&other);
        assert_eq!(told(theirs.send().await.unwrap()).await.status, 404);
    }
    let theirs = served.get("/v1/documents").bearer_auth(&other).send().await.unwrap();
    assert_eq!(theirs.json::<Value>().await.unwrap()["items"], json!([]));
    let settled = || async { served.read("/v1/documents?state=indexed").await["items"].as_array().unwrap().len() == 5 };
    crate::scene::eventually("all are indexed", settled).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = served.read(&format!("/v1/documents?limit=2{cursor}")).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|one| one["source"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt"]);
}
