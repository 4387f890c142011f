//! Chunks by their words: BM25 over stems, in memory, filled from Postgres at start. Each process has its
//! own.
//!
//! All scopes share one tantivy index, but no word: each is stored with the number of its scope before it. So a search
//! reads its own scope's lists and nothing else, and a tenant with ten chunks costs what ten chunks cost. What BM25 needs
//! to know of the whole is kept per scope: one tenant's documents never move another tenant's scores.
//!
//! Title, headings and content are one text; without its title, a chunk is found much worse. The 33 stop words are
//! Lucene's: longer lists take words such as `having`, `between` and `over`, which manuals of databases explain. Only of
//! a question of some length, more is left out: see `analysis`.
//!
//! Rejected: an index per scope (threads and 15 MB of writing memory each), a filter by scope inside the query (every
//! tenant's lists are read, and scores depend on other tenants).

mod analysis;
mod bm25;
mod holdings;

use super::{Allowed, Hit, IndexError, Scope};
use analysis::Analyzer;
use holdings::{Holdings, Step};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{PreTokenizedString, Token};
use tantivy::{DocAddress, Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, Term};
use uuid::Uuid;

/// Different ones of a query; what comes after is not looked for.
const MOST_WORDS: usize = 64;

/// The least that tantivy takes.
const WRITING_MEMORY: usize = 15_000_000;

const KEY: &str = "key";
const DOCUMENT: &str = "document";
const WORDS: &str = "words";

/// A chunk's words.
#[derive(Debug, Clone)]
pub struct Text {
    pub id: Uuid,
    pub doc_id: Uuid,
    pub scope: Scope,
    pub title: String,
    pub heading: String,
    pub content: String,
}

#[derive(Debug, Clone)]
pub enum TextChange {
    Upsert(Text),
    Delete(Uuid),
}

pub struct LexicalIndex {
    fields: Fields,
    analyzer: Analyzer,
    writer: Mutex<IndexWriter>,
    reader: IndexReader,
    holdings: RwLock<Holdings>,
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    /// Of one writing of a chunk; see `holdings`.
    key: Field,
    document: Field,
    words: Field,
}

impl LexicalIndex {
    pub fn new() -> Result<Self, IndexError> {
        let mut schema = Schema::builder();
        let words = TextFieldIndexing::default()
            .set_tokenizer("raw")
            .set_index_option(IndexRecordOption::WithFreqs)
            .set_fieldnorms(true);
        let fields = Fields {
            key: schema.add_u64_field(KEY, INDEXED | FAST),
            document: schema.add_u64_field(DOCUMENT, FAST),
            words: schema.add_text_field(WORDS, TextOptions::default().set_indexing_options(words)),
        };
        let index = Index::create_in_ram(schema.build());
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(WRITING_MEMORY)
            .build();
        let writer: IndexWriter = index.writer_with_options(options).map_err(refused)?;
        writer.set_merge_policy(Box::new(merging()));
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(refused)?;
        Ok(Self { fields, analyzer: Analyzer::new(), writer: Mutex::new(writer), reader, holdings: RwLock::default() })
    }

    /// Visible to searches when it returns. Blocking.
    pub fn apply(&self, changes: Vec<TextChange>) -> Result<(), IndexError> {
        // The last change of a chunk is the one that counts.
        let mut latest: HashMap<Uuid, Option<Text>> = HashMap::with_capacity(changes.len());
        for change in changes {
            match change {
                TextChange::Upsert(text) => latest.insert(text.id, Some(text)),
                TextChange::Delete(id) => latest.insert(id, None),
            };
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut steps = Vec::with_capacity(latest.len());
        let written = self.write(&mut writer, latest, &mut steps);
        let mut holdings = self.holdings_to_change();
        if let Err(error) = written {
            for step in steps.into_iter().rev() {
                holdings.undo(step);
            }
            drop(holdings);
            writer.rollback().map_err(refused)?;
            return Err(refused(error));
        }
        for step in steps {
            holdings.finish(step);
        }
        Ok(())
    }

    fn write(
        &self,
        writer: &mut IndexWriter,
        latest: HashMap<Uuid, Option<Text>>,
        steps: &mut Vec<Step>,
    ) -> tantivy::Result<()> {
        let mut analyzer = self.analyzer.clone();
        for (id, text) in latest {
            let step = if let Some(text) = text {
                let scope = self.holdings_to_change().number(&text.scope);
                let tokens = tokens(&mut analyzer, scope, &text);
                let (step, numbers) = self.holdings_to_change().begin_upsert(&text, tokens.len() as u32);
                steps.push(step);
                let mut document = TantivyDocument::new();
                document.add_u64(self.fields.key, numbers.key);
                document.add_u64(self.fields.document, u64::from(numbers.document));
                document.add_pre_tokenized_text(self.fields.words, PreTokenizedString { text: String::new(), tokens });
                writer.add_document(document)?;
                step
            } else {
                let step = self.holdings_to_change().begin_delete(id);
                steps.push(step);
                step
            };
            if let Some(old) = step.old {
                writer.delete_term(Term::from_field_u64(self.fields.key, old));
            }
        }
        writer.commit()?;
        self.reader.reload()
    }

    /// The best `limit` chunks by BM25. A query is words, never syntax. Blocking, milliseconds.
    pub fn search(&self, scope: &Scope, allowed: &Allowed, query: &str, limit: usize) -> Result<Vec<Hit>, IndexError> {
        let holdings = self.holdings();
        let Some((number, totals)) = holdings.scope(scope) else { return Ok(Vec::new()) };
        let chosen = allowed.as_ref().map(|documents| holdings.chosen(documents));
        drop(holdings);
        let terms = self.terms(number, query);
        if terms.is_empty() || limit == 0 || chosen.as_ref().is_some_and(|chosen| chosen.chunks == 0) {
            return Ok(Vec::new());
        }
        let searcher = self.reader.searcher();
        let found = bm25::best(&searcher, self.fields, terms, totals, chosen.as_ref(), limit).map_err(refused)?;
        self.hits(&searcher, found, allowed).map_err(refused)
    }

    pub fn count(&self) -> u64 {
        self.holdings().len() as u64
    }

    /// Ids of everything it holds, sorted.
    pub fn held(&self) -> Vec<Uuid> {
        self.holdings().ids()
    }

    /// A query's different words, each with how often it is asked for: twice counts twice.
    fn terms(&self, scope: u32, query: &str) -> Vec<(Term, u32)> {
        let mut terms: Vec<(Term, u32)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for word in self.analyzer.clone().query(query) {
            if let Some(at) = seen.get(&word) {
                terms[*at].1 += 1;
            } else if terms.len() < MOST_WORDS {
                terms.push((Term::from_field_text(self.fields.words, &scoped(scope, &word)), 1));
                seen.insert(word, terms.len() - 1);
            }
        }
        terms
    }

    fn hits(&self, searcher: &Searcher, found: Vec<(f32, DocAddress)>, allowed: &Allowed) -> tantivy::Result<Vec<Hit>> {
        let mut keyed = Vec::with_capacity(found.len());
        for (score, address) in found {
            let keys = searcher.segment_reader(address.segment_ord).fast_fields().u64(KEY)?;
            keyed.extend(keys.first(address.doc_id).map(|key| (score, key)));
        }
        let holdings = self.holdings();
        let hits = keyed.into_iter().filter_map(|(score, key)| holdings.hit(key, score));
        // A document's number may have passed to another one since the filter was made of numbers.
        let allowed = |hit: &Hit| allowed.as_ref().is_none_or(|documents| documents.contains(&hit.doc_id));
        let mut hits: Vec<Hit> = hits.filter(allowed).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        Ok(hits)
    }

    fn holdings(&self) -> RwLockReadGuard<'_, Holdings> {
        self.holdings.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn holdings_to_change(&self) -> RwLockWriteGuard<'_, Holdings> {
        self.holdings.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Batches are small and many: levels a factor of four apart, so that a chunk is rewritten a few times only, and segments
/// with a fifth of deleted chunks made anew, since those count in frequencies.
fn merging() -> LogMergePolicy {
    let mut policy = LogMergePolicy::default();
    policy.set_min_layer_size(1_000);
    policy.set_level_log_size(2.0);
    policy.set_min_num_segments(6);
    policy.set_del_docs_ratio_before_merge(0.2);
    policy
}

fn tokens(analyzer: &mut Analyzer, scope: u32, text: &Text) -> Vec<Token> {
    let mut tokens = Vec::new();
    for part in [&text.title, &text.heading, &text.content] {
        analyzer.each_word(part, |word| {
            tokens.push(Token { position: tokens.len(), text: scoped(scope, word), ..Token::default() });
        });
    }
    tokens
}

/// No word has a space in it.
fn scoped(scope: u32, word: &str) -> String {
    format!("{scope:x} {word}")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: tantivy::TantivyError) -> IndexError {
    IndexError::Refused { index: "lexical", cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn scope(tenant: &str) -> Scope {
        Scope { tenant: tenant.to_owned(), corpus: "c".to_owned() }
    }

    fn text(id: u128, tenant: &str, content: &str) -> TextChange {
        TextChange::Upsert(Text {
            id: Uuid::from_u128(id),
            doc_id: Uuid::from_u128(id / 10),
            scope: scope(tenant),
            title: format!("title{id}"),
            heading: "Storage > Vacuum".to_owned(),
            content: content.to_owned(),
        })
    }

    fn found(index: &LexicalIndex, tenant: &str, query: &str) -> Vec<u128> {
        let hits = index.search(&scope(tenant), &None, query, 10).unwrap();
        hits.iter().map(|hit| hit.id.as_u128()).collect()
    }

    #[test]
    fn words_of_title_heading_and_content_are_found_by_their_stems() {
        let index = LexicalIndex::new().unwrap();
        index.apply(vec![text(10, "a", "Dead tuples were removed."), text(20, "a", "Write-ahead logging")]).unwrap();
        assert_eq!(found(&index, "a", "removing a TUPLE"), [10]);
        assert_eq!(found(&index, "a", "title20"), [20]);
        assert_eq!(found(&index, "a", "vacuuming").len(), 2);
        assert_eq!(found(&index, "a", "the of and"), [0_u128; 0]);
    }

    #[test]
    fn a_query_is_words_and_never_syntax() {
        let index = LexicalIndex::new().unwrap();
        index.apply(vec![text(10, "a", "one two"), text(20, "b", "one two")]).unwrap();
        for query in
            ["1 one", "2 one", "words:one", "-one", "\"one", "+(one", "one AND", "one*", "one:[* TO *]", "one\0"]
        {
            assert_eq!(found(&index, "a", query), [10], "{query}");
        }
        assert_eq!(found(&index, "a", &format!("{} one", "many ".repeat(10_000))), [10]);
        for query in ["", "*", "2 ", "key:0", "\u{feff}"] {
            assert_eq!(found(&index, "a", query), [0_u128; 0], "{query}");
        }
    }

    #[test]
    fn a_word_that_is_asked_for_twice_counts_twice() {
        let index = LexicalIndex::new().unwrap();
        index.apply(vec![text(10, "a", "alpha"), text(20, "a", "beta")]).unwrap();
        let hits = index.search(&scope("a"), &None, "Beta alpha betas", 10).unwrap();
        assert_eq!(hits.iter().map(|hit| hit.id.as_u128()).collect::<Vec<_>>(), [20, 10]);
        assert!((hits[0].score - 2.0 * hits[1].score).abs() < 1e-4, "{hits:?}");
    }

    #[test]
    fn another_tenants_documents_are_not_found_and_do_not_move_scores() {
        let index = LexicalIndex::new().unwrap();
        let of_a = vec![text(10, "a", "vacuum freeze"), text(20, "a", "checkpoint"), text(30, "a", "vacuum vacuum")];
        index.apply(of_a).unwrap();
        let before = index.search(&scope("a"), &None, "vacuum checkpoint", 10).unwrap();
        index.apply((100..200).map(|id| text(id, "b", "vacuum and more words than the other has")).collect()).unwrap();
        assert_eq!(index.search(&scope("a"), &None, "vacuum checkpoint", 10).unwrap(), before);
        assert_eq!(before[0].id, Uuid::from_u128(20), "the rarer word weighs more");
        assert_eq!(found(&index, "c", "vacuum"), [0_u128; 0]);
    }

    #[test]
    fn only_allowed_documents_are_found() {
        let index = LexicalIndex::new().unwrap();
        index.apply((0..100).map(|id| text(id, "a", "vacuum")).collect()).unwrap();
        let allowed: Allowed = Some(Arc::new([3, 7, 999].map(Uuid::from_u128).into()));
        let hits = index.search(&scope("a"), &allowed, "vacuum", 100).unwrap();
        let mut ids: Vec<u128> = hits.iter().map(|hit| hit.id.as_u128()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (30..40).chain(70..80).collect::<Vec<u128>>());
        let none: Allowed = Some(Arc::default());
        assert!(index.search(&scope("a"), &none, "vacuum", 10).unwrap().is_empty());
    }

    #[test]
    fn a_chunk_is_replaced_deleted_and_applied_twice_without_harm() {
        let index = LexicalIndex::new().unwrap();
        for _ in 0..2 {
            index.apply(vec![text(1, "a", "first"), text(2, "a", "other"), text(1, "a", "second")]).unwrap();
            assert_eq!((found(&index, "a", "first"), found(&index, "a", "second")), (vec![], vec![1]));
        }
        assert_eq!((index.count(), index.held()), (2, vec![Uuid::from_u128(1), Uuid::from_u128(2)]));
        for _ in 0..2 {
            index.apply(vec![TextChange::Delete(Uuid::from_u128(1))]).unwrap();
            assert_eq!((found(&index, "a", "second"), index.count()), (vec![], 1));
        }
        index.apply(vec![text(1, "a", "third"), TextChange::Delete(Uuid::from_u128(2))]).unwrap();
        assert_eq!((found(&index, "a", "third other"), index.count()), (vec![1], 1));
    }

    #[test]
    fn thousands_of_small_batches_leave_few_segments() {
        let index = LexicalIndex::new().unwrap();
        for batch in 0..120 {
            let texts = (0..4).map(|i| text((batch * 7 + i) % 600, "a", "some words")).collect();
            index.apply(texts).unwrap();
        }
        assert_eq!(index.search(&scope("a"), &None, "words", 2_000).unwrap().len() as u64, index.count());
        let segments = index.reader.searcher().segment_readers().len();
        assert!(segments < 40, "{segments} segments");
    }
}
