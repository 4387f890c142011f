//! Embeddings by the real local model, and by an endpoint on this machine that behaves and misbehaves.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Json, Router, routing::post};
use docrag::embed::{EmbedError, Embedder, PROBES, fingerprint, same_model};
use docrag::provider::{BreakerState, Endpoint, EndpointOptions, ProviderError};
use docrag::settings::EmbeddingSettings;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// The model is really computed here, perhaps beside other tests.
const PATIENT: Duration = Duration::from_mins(1);
const KEY: &str = "sk-do-not-tell";

/// Where the tests find the model.
pub(crate) fn model_folder() -> PathBuf {
    let cache = || groundskeeper_testing::scratch::cache().join("models/all-MiniLM-L6-v2-int8");
    let folder = std::env::var_os("DOCRAG_MODEL_DIR").map_or_else(cache, PathBuf::from);
    if let Err(error) = docrag::model::verify(&folder) {
        panic!("{error}; for the tests: cargo xtask setup");
    }
    folder
}

async fn local(threads: usize) -> Embedder {
    let settings = EmbeddingSettings { model_dir: model_folder(), threads, ..EmbeddingSettings::default() };
    Embedder::open(&settings).await.unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn assert_begins(vector: &[f32], expected: &[f32]) {
    let close = vector.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 0.002);
    assert!(close, "{:?} instead of {expected:?}", &vector[..expected.len()]);
}

#[tokio::test]
async fn the_local_model_gives_the_vectors_of_the_reference() {
    let embedder = local(0).await;
    let vector = embedder.query("Hello World, a test", PATIENT).await.unwrap();
    assert_eq!(vector.len(), embedder.identity().dimension);
    assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5);
    assert_begins(&vector, &[-0.0202, 0.0214, 0.0096, 0.0500, -0.0625, -0.1379, 0.0418, 0.0037]);

    // By ONNX Runtime 1.31 on the same file, with Hugging Face's tokenizer.
    let probes = embedder.probes().await.unwrap();
    let reference = [
        [-0.0290, -0.0574, -0.0058, 0.0272, -0.0376, 0.0331],
        [0.0583, -0.0391, -0.0092, -0.0128, -0.0817, -0.0240],
        [-0.0330, 0.1023, 0.0151, 0.1214, -0.0043, -0.0102],
        [-0.1091, 0.0500, 0.0430, -0.0654, -0.0348, -0.0411],
        [-0.0740, -0.0844, -0.0113, -0.0493, 0.0296, 0.1062],
        [0.0217, 0.0788, 0.0268, 0.0288, 0.0059, 0.0223],
        [0.0059, 0.0029, -0.0963, -0.0017, 0.0214, -0.0868],
        [-0.0497, -0.0054, 0.0262, 0.0386, 0.0339, -0.0101],
    ];
    probes.iter().zip(&reference).for_each(|(probe, expected)| assert_begins(probe, expected));

    let again = local(1).await.probes().await.unwrap();
    assert!(same_model(&probes, &again));
    assert_eq!(fingerprint(embedder.identity(), &probes), fingerprint(embedder.identity(), &again));
    // Each text's vector is the one of its neighbour: what a model that mixes up its inputs would give.
    let shifted: Vec<_> = again.iter().cycle().skip(1).take(PROBES.len()).cloned().collect();
    assert!(!same_model(&probes, &shifted));
}

#[tokio::test]
async fn related_texts_are_closer_and_what_is_too_long_is_cut() {
    let embedder = local(0).await;
    let long = |words: usize, end: &str| "checkpoint ".repeat(words) + end;
    let texts = [
        "How can I back up my database?".to_owned(),
        "pg_dump writes the contents of a database to a file.".to_owned(),
        "The cake needs three eggs and some butter.".to_owned(),
        long(254, ""),
        long(254, "and something that is no longer seen"),
        long(200, "and something that is seen"),
        String::new(),
    ];
    let vectors = embedder.passages(texts.to_vec()).await.unwrap();
    assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]) + 0.2);
    assert!(cosine(&vectors[3], &vectors[4]) > 0.999_99);
    assert!(cosine(&vectors[3], &vectors[5]) < 0.999);
}

#[tokio::test]
async fn tokens_are_counted_as_the_reference_does() {
    // Counts by Hugging Face's `tokenizers` with the same file.
    let counts = [
        ("Hello World, a test", 5),
        ("xqzjk", 4),
        ("antidisestablishmentarianism", 8),
        ("Größe café naïve", 5),
        ("数据库连接池", 6),
        ("日本語テスト", 6),
        ("naïve—dash “quotes”", 6),
        ("👩\u{200d}💻 emoji", 4),
        ("İstanbul ΣΊΣΥΦΟΣ", 8),
        ("\u{200b}zero\u{200b}width", 4),
        ("한국어 문장", 14),
        ("ไทย ภาษา", 2),
        ("§ 5 Abs. 2 €100", 7),
    ];
    let counter = docrag::embed::TokenCounter::load(&model_folder()).unwrap();
    for (text, expected) in counts {
        assert_eq!(counter.count(text), expected, "{text}");
    }
}

#[tokio::test]
async fn a_query_is_answered_while_a_thousand_passages_wait() {
    let embedder = local(1).await;
    let passages = (0..1_000).map(|number| format!("Passage {number}. {}", "words of it ".repeat(40))).collect();
    let ingesting = tokio::spawn({
        let embedder = embedder.clone();
        async move { embedder.passages(passages).await }
    });
    while embedder.tokens_used() == 0 {
        tokio::task::yield_now().await;
    }
    let before = embedder.tokens_used();
    embedder.query("what is asked meanwhile", PATIENT).await.unwrap();
    let meanwhile = embedder.tokens_used() - before;
    // The one that was being computed, and perhaps one more that ended as the query came.
    assert!(meanwhile < 4 * 256, "{meanwhile} tokens were embedded before the query was answered");
    assert!(matches!(embedder.query("too late", Duration::ZERO).await, Err(EmbedError::Deadline(_))));

    // Who gives up takes what waits with them.
    ingesting.abort();
    assert!(ingesting.await.unwrap_err().is_cancelled());
    let before = embedder.tokens_used();
    embedder.passages(vec!["the next passage".to_owned()]).await.unwrap();
    assert!(embedder.tokens_used() - before < 4 * 256);
}

#[tokio::test]
async fn a_model_that_is_not_the_known_one_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddingSettings { model_dir: folder.path().to_owned(), ..EmbeddingSettings::default() };
    let error = Embedder::open(&settings).await.err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("docrag model install"), "{error}");
    std::fs::copy(model_folder().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("model.onnx"), "something else").unwrap();
    let error = Embedder::open(&settings).await.err().unwrap();
    assert!(error.to_string().contains("8199be6f699a"), "{error}");
    assert!(!error.can_retry());
}

/// An endpoint that answers what the script says, then vectors: number n of a request points along axis n + 1.
#[derive(Clone, Default)]
struct Fake {
    script: Arc<Mutex<VecDeque<Response>>>,
    seen: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

impl Fake {
    async fn start(script: impl IntoIterator<Item = Response>) -> (Self, String) {
        let fake = Self { script: Arc::new(Mutex::new(script.into_iter().collect())), seen: Arc::default() };
        let router = Router::new().route("/v1/embeddings", post(Self::answer)).with_state(fake.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (fake, url)
    }

    #[expect(clippy::unused_async, reason = "axum takes async functions")]
    async fn answer(State(fake): State<Self>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
        let texts = body["input"].as_array().map_or(0, Vec::len);
        fake.seen.lock().unwrap().push((headers, body));
        if let Some(answer) = fake.script.lock().unwrap().pop_front() {
            return answer;
        }
        let vector = |n: usize| (0..4).map(|axis| if axis == n + 1 { 5.0 } else { 0.0 }).collect::<Vec<f32>>();
        // Backwards: an answer may come in any order.
        let data: Vec<_> = (0..texts).rev().map(|n| json!({"index": n, "embedding": vector(n)})).collect();
        Json(json!({"data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}})).into_response()
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn remote_settings(url: &str) -> EmbeddingSettings {
    EmbeddingSettings {
        endpoint: Some(url.to_owned()),
        api_key: Some(KEY.to_owned().into()),
        model: "some-embedder".to_owned(),
        dimension: 4,
        batch: 2,
        ..EmbeddingSettings::default()
    }
}

async fn remote(url: &str) -> Embedder {
    Embedder::open(&remote_settings(url)).await.unwrap()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}")).collect()
}

fn vectors(embeddings: &[Value]) -> Response {
    let items = embeddings.iter().zip(0..).map(|(vector, index)| json!({"index": index, "embedding": vector}));
    Json(json!({"data": items.collect::<Vec<_>>()})).into_response()
}

#[tokio::test]
async fn a_remote_model_is_asked_in_batches_and_its_answers_are_put_in_order() {
    let (fake, url) = Fake::start([]).await;
    let embedder = remote(&url).await;
    let got = embedder.passages(texts(3)).await.unwrap();
    assert_eq!(got, [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]);
    assert_eq!(embedder.tokens_used(), 14, "as billed");
    let seen = fake.seen.lock().unwrap();
    let (headers, body) = &seen[0];
    assert_eq!(seen.len(), 2);
    assert_eq!(headers[header::AUTHORIZATION], format!("Bearer {KEY}"));
    assert_eq!(body, &json!({"model": "some-embedder", "input": ["text 0", "text 1"], "encoding_format": "float"}));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_a_refusal_is_not() {
    let busy = (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")], "slow down").into_response();
    let (fake, url) = Fake::start([busy, StatusCode::BAD_GATEWAY.into_response()]).await;
    remote(&url).await.query("a question", PATIENT).await.unwrap();
    assert_eq!(fake.requests(), 3);

    let refusal =
        |status: StatusCode| (status, Json(json!({"error": {"message": format!("bad key {KEY}")}}))).into_response();
    let (fake, url) = Fake::start([refusal(StatusCode::UNAUTHORIZED), refusal(StatusCode::BAD_REQUEST)]).await;
    let embedder = remote(&url).await;
    let error = embedder.passages(texts(1)).await.unwrap_err();
    assert!(error.to_string().contains("401: bad key (the key)"), "{error}");
    assert!(error.can_retry(), "the key can be put right without the text being at fault");
    let error = embedder.passages(texts(1)).await.unwrap_err();
    assert!(!error.can_retry() && !format!("{error:?}").contains(KEY), "{error:?}");
    assert_eq!(fake.requests(), 2);
    assert!(!format!("{:?}", remote_settings(&url)).contains(KEY));
}

#[tokio::test]
async fn answers_that_cannot_be_right_are_refused() {
    let axis = json!([1.0, 0.0, 0.0, 0.0]);
    let twice = json!({"data": [{"index": 0, "embedding": axis}, {"index": 0, "embedding": axis}]});
    let answers = [
        (vectors(&[json!([1.0, 0.0]), json!([0.0, 1.0])]), "2 numbers where 4"),
        (vectors(std::slice::from_ref(&axis)), "1 vectors came for 2 texts"),
        (vectors(&[axis, json!([0.0, 0.0, 0.0, 0.0])]), "no direction"),
        (Json(twice).into_response(), "came twice"),
        ("<html>Welcome to the proxy</html>".into_response(), "cannot be used|expected value"),
        (" ".repeat(10 << 20).into_response(), "longer than"),
    ];
    let (scripts, expected): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    let (_fake, url) = Fake::start(scripts).await;
    let embedder = remote(&url).await;
    for expected in expected {
        let error = embedder.passages(texts(2)).await.unwrap_err().to_string();
        assert!(expected.split('|').any(|part| error.contains(part)), "{error} instead of {expected}");
    }
}

#[tokio::test]
async fn a_silent_endpoint_costs_a_query_its_deadline_and_no_more() {
    // It accepts connections (the backlog does) and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let embedder = remote(&format!("http://{}/v1", listener.local_addr().unwrap())).await;
    let start = Instant::now();
    let error = embedder.query("anybody there?", SECOND / 5).await.unwrap_err();
    assert!(matches!(error, EmbedError::Deadline(_)), "{error}");
    assert!(start.elapsed() < SECOND);
    for _ in 1..5 {
        embedder.query("anybody there?", SECOND / 50).await.unwrap_err();
    }
    let error = embedder.query("anybody there?", SECOND).await.unwrap_err();
    assert!(matches!(error, EmbedError::BreakerOpen { .. }), "{error}");
}

#[tokio::test]
async fn the_key_does_not_follow_a_redirect_to_another_address() {
    let (elsewhere, other) = Fake::start([]).await;
    let away = Redirect::temporary(&format!("{other}/embeddings")).into_response();
    let (_fake, url) = Fake::start([away]).await;
    let error = remote(&url).await.passages(texts(1)).await.unwrap_err().to_string();
    assert!(error.contains("307") && error.contains("final address"), "{error}");
    assert_eq!(elsewhere.requests(), 0);
}

fn endpoint(url: &str) -> Endpoint {
    let api_key = Some(KEY.to_owned().into());
    let (timeout, breaker_open) = (SECOND, SECOND / 4);
    Endpoint::new(EndpointOptions { url, api_key, timeout, retries: 0, breaker_failures: 2, breaker_open }).unwrap()
}

#[tokio::test]
async fn the_breaker_spares_an_endpoint_that_is_down_and_notices_that_it_is_back() {
    let down = || StatusCode::SERVICE_UNAVAILABLE.into_response();
    let (fake, url) = Fake::start([down(), down()]).await;
    let endpoint = endpoint(&url);
    let nothing = json!({});
    let ask = || endpoint.post_json::<_, Value>("embeddings", &nothing, 10_000);
    for _ in 0..2 {
        assert!(ask().await.unwrap_err().is_retryable());
    }
    let error = ask().await.unwrap_err();
    assert!(matches!(error, ProviderError::BreakerOpen { .. }), "{error}");
    assert_eq!(fake.requests(), 2);
    tokio::time::sleep(SECOND / 3).await;
    assert_eq!(endpoint.breaker().state(), BreakerState::HalfOpen);
    ask().await.unwrap();
    assert_eq!(endpoint.breaker().state(), BreakerState::Closed);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_named_with_the_reason() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let error = endpoint(&url).post("embeddings", &json!({})).await.unwrap_err();
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_streamed_answer_comes_in_pieces_and_ends_at_its_limit() {
    let (_fake, url) = Fake::start(["data: one\n\n".into_response(), "x".repeat(100).into_response()]).await;
    let endpoint = endpoint(&url);
    let (pieces, permit) = endpoint.post("embeddings", &json!({})).await.unwrap().pieces(50);
    let read: Vec<_> = pieces.map(|piece| piece.unwrap().as_ref().to_vec()).collect().await;
    assert_eq!(read.concat(), b"data: one\n\n");
    permit.succeeded();

    let (pieces, _permit) = endpoint.post("embeddings", &json!({})).await.unwrap().pieces(50);
    let read: Vec<_> = pieces.map(|piece| piece.map(drop)).collect().await;
    assert!(matches!(read.last(), Some(Err(ProviderError::Answer { .. }))), "{read:?}");
}
