//! Evaluating, with vectors that mean nothing: what is counted is what matters here.

use crate::scene::{Scene, paragraph};
use docrag::eval::{Options, run};
use docrag::search::SearchMode;
use serde_json::json;
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn recall_at_100_is_over_documents_also_when_one_of_them_fills_the_list() {
    let scene = Scene::start().await;
    let mut settings = scene.settings();
    // A limit of requests, which evaluating is none of.
    settings.search.max_limit = 5;
    let (service, background) = scene.service_with(settings).await;
    let loud: Vec<String> = (0..150).map(|number| format!("The heap, heap, heap. {}", paragraph(number))).collect();
    let loud = loud.join("\n\n");
    let wanted = format!("It names the heap. {}", paragraph(999));
    let folder = tempfile::tempdir().unwrap();
    let records = [json!({"_id": "loud", "text": loud}), json!({"_id": "wanted", "text": wanted})];
    fs::write(folder.path().join("corpus.jsonl"), format!("{}\n{}\n", records[0], records[1])).unwrap();
    fs::write(folder.path().join("queries.jsonl"), "{\"_id\": \"q\", \"text\": \"heap\"}\n").unwrap();
    fs::write(folder.path().join("qrels.tsv"), "q\twanted\t1\n").unwrap();
    let options = Options { folder: folder.path().to_owned(), corpus: None, save: false };
    let report = run(&service, &options, &mut |_: &str, _: usize, _: usize| {}).await.unwrap();
    for figures in &report.figures {
        assert!(figures.recall_100 > 0.999, "{figures:?}");
    }
    let lexical = report.figures.iter().find(|figures| figures.mode == SearchMode::Lexical).unwrap();
    assert!(lexical.recall_10 < 0.001, "as people search: 100 passages, all of the other document");
    background.stop().await;
}
