//! Where an answer differs from the recorded one, in what a client can rely on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// How much of a value has to be as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// All of it, except for times and what [`VARIES`] names.
    Exactly,
    /// The keys, and the types of values.
    InShape,
}

/// Values that are a server's own, whatever it is asked.
const VARIES: [&str; 6] = ["time", "operation_id", "peer_id", "creation_time", "size", "checksum"];
/// Objects whose keys are data. So are those of endpoints, such as `GET /`: their keys are statuses.
const KEYED_BY_DATA: [&str; 4] = ["responses", "file_versions", "collection_data", "replicate_states"];
/// Cosines of vectors that went through JSON and the engine's normalization.
const CLOSE: f64 = 1e-4;

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The differences, one a line; `masked` are the keys whose values, and whose own keys, are free.
pub(super) fn json(expected: &Value, actual: &Value, how: How, masked: &[&str]) -> Vec<String> {
    let mut comparison = Comparison { masked, differences: Vec::new() };
    comparison.values("", "", expected, actual, how);
    comparison.differences
}

struct Comparison<'a> {
    masked: &'a [&'a str],
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn values(&mut self, path: &str, key: &str, expected: &Value, actual: &Value, how: How) {
        let how = if VARIES.contains(&key) || self.masked.contains(&key) { How::InShape } else { how };
        match (expected, actual) {
            (Value::Object(expected), Value::Object(actual)) => self.objects(path, key, expected, actual, how),
            (Value::Array(expected), Value::Array(actual)) => self.arrays(path, key, expected, actual, how),
            // What was null may have got a value since, and the other way round.
            (Value::Null, _) | (_, Value::Null) if how == How::InShape => {}
            _ if kind(expected) != kind(actual) => self.differ(path, expected, actual),
            (Value::Number(expected_number), Value::Number(actual_number)) if key == "score" => {
                let distance =
                    expected_number.as_f64().unwrap_or(f64::NAN) - actual_number.as_f64().unwrap_or(f64::NAN);
                if distance.is_nan() || distance.abs() > CLOSE {
                    self.differ(path, expected, actual);
                }
            }
            _ if how == How::Exactly && expected != actual => self.differ(path, expected, actual),
            _ => {}
        }
    }

    fn differ(&mut self, path: &str, expected: &Value, actual: &Value) {
        let short = |value: &Value| value.to_string().chars().take(200).collect::<String>();
        self.differences.push(format!("{path}: recorded {}, got {}", short(expected), short(actual)));
    }

    fn objects(
        &mut self,
        path: &str,
        key: &str,
        expected: &serde_json::Map<String, Value>,
        actual: &serde_json::Map<String, Value>,
        how: How,
    ) {
        let free_keys =
            how == How::InShape && (KEYED_BY_DATA.contains(&key) || key.contains(" /") || self.masked.contains(&key));
        let known: BTreeSet<&String> = expected.keys().collect();
        let keys_differ = known != actual.keys().collect();
        if keys_differ && !free_keys {
            let gone: Vec<_> = expected.keys().filter(|key| !actual.contains_key(*key)).collect();
            let new: Vec<_> = actual.keys().filter(|key| !expected.contains_key(*key)).collect();
            self.differences.push(format!("{path}: recorded keys {gone:?} are missing, keys {new:?} are new"));
        }
        let any = expected.values().next();
        for (key, actual) in actual {
            let like = expected.get(key).or(if free_keys { any } else { None });
            if let Some(like) = like {
                self.values(&format!("{path}.{key}"), key, like, actual, how);
            }
        }
    }

    fn arrays(&mut self, path: &str, key: &str, expected: &[Value], actual: &[Value], how: How) {
        if expected.len() != actual.len() && (how == How::Exactly || expected.is_empty() != actual.is_empty()) {
            self.differences.push(format!("{path}: recorded {} values, got {}", expected.len(), actual.len()));
            return;
        }
        for (at, value) in actual.iter().enumerate() {
            let like = if expected.len() == actual.len() { &expected[at] } else { &expected[0] };
            self.values(&format!("{path}[{at}]"), key, like, value, how);
        }
    }
}

/// A family of metrics: its kind, and the label names of its samples.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().0);
        } else if !line.starts_with('#') && line.contains(' ') {
            let (name, labels) = line.split_once(['{', ' ']).unwrap_or((line, ""));
            let labels: Vec<&str> = labels.split('"').step_by(2).filter_map(|part| part.strip_suffix('=')).collect();
            families.entry(name.to_owned()).or_default().1.insert(labels.concat());
        }
    }
    families
}

/// Metrics that were recorded and are not there in that form, or the other way round. A recording that was cut short
/// says nothing of what is missing from it.
pub(super) fn metrics(recorded: &str, actual: &str) -> Vec<String> {
    let (whole, is_whole) = match recorded.rsplit_once('\n') {
        Some((whole, "")) => (whole, true),
        Some((whole, _)) => (whole, false),
        None => ("", false),
    };
    let (expected, actual) = (families(whole), families(actual));
    let missing = expected
        .iter()
        .filter(|(name, (kind, labels))| {
            !actual.get(*name).is_some_and(|found| found.0 == *kind && found.1.is_superset(labels))
        })
        .map(|(name, form)| format!("metric {name} {form:?} is missing; there is {:?}", actual.get(name)));
    let new = actual
        .keys()
        .filter(|name| is_whole && !expected.contains_key(*name))
        .map(|name| format!("metric {name} is new"));
    missing.chain(new).collect()
}
