//! A small strict reader of the Prometheus text format 0.0.4: it panics at what a scraper would refuse or guess at.

use std::collections::{BTreeMap, BTreeSet};

/// The series by `name{label=value,…}`, labels sorted and unescaped.
pub(super) fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line must end");
    let (mut series, mut described, mut current) = (BTreeMap::new(), BTreeSet::new(), String::new());
    let mut help: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("HELP has a text");
            assert!(!words.is_empty());
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("TYPE has a type");
            assert_eq!(help.take().as_deref(), Some(name), "HELP comes right before TYPE");
            assert!(["gauge", "counter"].contains(&kind), "{kind}");
            assert!(described.insert(name.to_owned()), "{name} is described twice, or its series are apart");
            name.clone_into(&mut current);
        } else {
            let (key, value) = sample(line);
            let name = key.split('{').next().unwrap();
            assert_eq!(name, current, "a sample outside its family");
            assert!(series.insert(key.clone(), value).is_none(), "{key} twice");
        }
    }
    series
}

fn sample(line: &str) -> (String, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let name = &line[..end];
    assert!(is_name(name), "{name:?} is no metric name");
    let (labels, rest) = match line[end..].strip_prefix('{') {
        Some(rest) => labels(rest),
        None => (BTreeMap::new(), &line[end..]),
    };
    let value = match rest.strip_prefix(' ').expect("one space before the value") {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().expect("a number"),
    };
    if labels.is_empty() {
        return (name.to_owned(), value);
    }
    let written: Vec<String> = labels.iter().map(|(label, text)| format!("{label}={text}")).collect();
    (format!("{name}{{{}}}", written.join(",")), value)
}

/// Reads after the opening brace, to after the closing one.
fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let (mut found, mut rest) = (BTreeMap::new(), text);
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label and its value");
        assert!(is_name(name) && !name.contains(':'), "{name:?} is no label name");
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().expect("a closing quote") {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match characters.next().expect("something escaped").1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    other => panic!("\\{other} is no escape"),
                }),
                (_, '\n') => panic!("a bare line break"),
                (_, other) => value.push(other),
            }
        };
        assert!(found.insert(name.to_owned(), value).is_none(), "{name} twice");
        rest = &after[end..];
        match rest.split_at(1) {
            (",", more) => rest = more,
            ("}", more) => return (found, more),
            (other, _) => panic!("{other:?} after a label"),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}
