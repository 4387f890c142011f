//! Reading a collection in the layout of BEIR: `corpus.jsonl`, `queries.jsonl`, and judgments in `qrels.tsv` or
//! `qrels/test.tsv`.

use super::measures::Judgments;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Record {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub text: String,
}

/// Documents, queries and judgments. Queries that nobody judged are left out.
#[derive(Debug, Clone)]
pub struct Collection {
    pub name: String,
    pub documents: Vec<Record>,
    pub queries: Vec<Record>,
    /// By query.
    pub judgments: BTreeMap<String, Judgments>,
}

#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    #[error("{path}: {cause}; a collection in BEIR's layout has corpus.jsonl, queries.jsonl and qrels.tsv")]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("{path}:{line}: {cause}")]
    Wrong { path: PathBuf, line: usize, cause: String },
    #[error("{path}: no query has a judgment")]
    NothingJudged { path: PathBuf },
}

impl Collection {
    pub fn read(folder: &Path) -> Result<Self, CollectionError> {
        let documents = records(&folder.join("corpus.jsonl"))?;
        let mut queries = records(&folder.join("queries.jsonl"))?;
        let flat = folder.join("qrels.tsv");
        let path = if flat.exists() { flat } else { folder.join("qrels/test.tsv") };
        let judgments = judgments(&path)?;
        queries.retain(|query| judgments.get(&query.id).is_some_and(|judged| judged.values().any(|grade| *grade > 0)));
        if queries.is_empty() {
            return Err(CollectionError::NothingJudged { path });
        }
        let name =
            folder.file_name().map_or_else(|| "collection".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { name, documents, queries, judgments })
    }
}

fn read(path: &Path) -> Result<String, CollectionError> {
    fs::read_to_string(path).map_err(|cause| CollectionError::Unreadable { path: path.to_owned(), cause })
}

fn records(path: &Path) -> Result<Vec<Record>, CollectionError> {
    let text = read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut seen = HashSet::new();
    lines
        .map(|(number, line)| {
            let wrong = |cause: String| CollectionError::Wrong { path: path.to_owned(), line: number + 1, cause };
            let record: Record = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            if !seen.insert(record.id.clone()) {
                return Err(wrong(format!("the id {} is there twice", record.id)));
            }
            Ok(record)
        })
        .collect()
}

/// Lines of query, document and grade; `query 0 document grade` as in TREC's own files is understood as well.
fn judgments(path: &Path) -> Result<BTreeMap<String, Judgments>, CollectionError> {
    let text = read(path)?;
    let mut all: BTreeMap<String, Judgments> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (query, document, grade) = match fields.as_slice() {
            [] => continue,
            [query, document, grade] | [query, _, document, grade] => (query, document, grade),
            _ => {
                let cause = "expected query, document and grade".to_owned();
                return Err(CollectionError::Wrong { path: path.to_owned(), line: number + 1, cause });
            }
        };
        let Ok(grade) = grade.parse::<i64>() else {
            // BEIR's files begin with a line of names.
            if number == 0 {
                continue;
            }
            let cause = format!("{grade} is not a grade");
            return Err(CollectionError::Wrong { path: path.to_owned(), line: number + 1, cause });
        };
        // Some collections have negative grades for spam: not relevant.
        let grade = u32::try_from(grade).unwrap_or(0);
        all.entry((*query).to_owned()).or_default().insert((*document).to_owned(), grade);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(corpus: &str, queries: &str, qrels: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("corpus.jsonl"), corpus).unwrap();
        fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
        fs::write(folder.path().join("qrels.tsv"), qrels).unwrap();
        folder
    }

    const CORPUS: &str =
        "{\"_id\":\"d1\",\"title\":\"T\",\"text\":\"one\"}\n{\"_id\":\"d2\",\"text\":\"two\",\"metadata\":{}}\n";
    const QUERIES: &str = "{\"_id\":\"q1\",\"text\":\"a\"}\n{\"_id\":\"q2\",\"text\":\"b\"}\n";

    #[test]
    fn queries_without_a_relevant_document_are_left_out() {
        let folder = folder(CORPUS, QUERIES, "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td1\t0\n");
        let collection = Collection::read(folder.path()).unwrap();
        assert_eq!(collection.documents.len(), 2);
        assert_eq!(collection.queries.iter().map(|query| query.id.as_str()).collect::<Vec<_>>(), ["q1"]);
        assert_eq!(collection.judgments["q1"]["d1"], 1);
    }

    #[test]
    fn trec_lines_and_negative_grades_are_understood() {
        let folder = folder(CORPUS, QUERIES, "q1 0 d1 2\nq1 0 d2 -1\n");
        let judged = &Collection::read(folder.path()).unwrap().judgments["q1"];
        assert_eq!((judged["d1"], judged["d2"]), (2, 0));
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let broken = folder("{\"_id\":\"d1\"}\nnot json\n", QUERIES, "");
        let error = Collection::read(broken.path()).unwrap_err().to_string();
        assert!(error.contains("corpus.jsonl:2:"), "{error}");
        let twice = folder("{\"_id\":\"d1\"}\n{\"_id\":\"d1\"}\n", QUERIES, "");
        assert!(Collection::read(twice.path()).unwrap_err().to_string().contains("d1 is there twice"));
        let missing = Collection::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/corpus.jsonl") && missing.contains("BEIR"), "{missing}");
        let unjudged = folder(CORPUS, QUERIES, "q1\td1\t0\n");
        assert!(matches!(Collection::read(unjudged.path()), Err(CollectionError::NothingJudged { .. })));
    }
}
