//! Where sentences end. A wrong end costs little (a chunk may begin there), so the rules are few.

use std::iter;

/// After these a full stop ends no sentence.
const ABBREVIATIONS: [&str; 22] = [
    "e.g", "i.e", "etc", "vs", "cf", "fig", "figs", "eq", "eqs", "no", "nos", "vol", "pp", "ref", "refs", "dr", "mr",
    "mrs", "prof", "st", "al", "approx",
];

/// The sentences of one line of text, without the space between them.
pub(super) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (sentence, after) = rest.split_at(end(rest));
        rest = after.trim_start();
        Some(sentence.trim_end())
    })
}

fn end(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if matches!(c, '。' | '！' | '？') {
            return at + c.len_utf8();
        }
        if !matches!(c, '.' | '!' | '?' | '…') {
            continue;
        }
        let mut after = at + c.len_utf8();
        while let Some((at, c)) = chars.next_if(|(_, c)| is_closing(*c)) {
            after = at + c.len_utf8();
        }
        match chars.peek() {
            None => return text.len(),
            Some((_, next)) if next.is_whitespace() => {
                let begins = text[after..].trim_start().chars().find(|c| !is_opening(*c));
                if !(begins.is_some_and(char::is_lowercase) || c == '.' && is_abbreviation(&text[..at])) {
                    return after;
                }
            }
            Some(_) => {}
        }
    }
    text.len()
}

fn is_closing(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '"' | '\'' | ')' | ']' | '”' | '’' | '»')
}

fn is_opening(c: char) -> bool {
    matches!(c, '"' | '\'' | '(' | '[' | '“' | '‘' | '«')
}

/// An abbreviation, or the initial of a name.
fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || is_opening(c)).next().unwrap_or_default();
    let mut chars = word.chars();
    let initial = chars.next().is_some_and(char::is_uppercase) && chars.next().is_none();
    initial || word.len() <= 6 && ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"])]
    #[case("He said “Stop.” Then (it ended.) He left.", &["He said “Stop.”", "Then (it ended.)", "He left."])]
    #[case("See e.g. Smith et al. 1990 and A. B. Jones.", &["See e.g. Smith et al. 1990 and A. B. Jones."])]
    #[case("Version 15.2 of postgresql.conf is new. \"Quoted\" begins.", &["Version 15.2 of postgresql.conf is new.", "\"Quoted\" begins."])]
    #[case("Wait... what? no.", &["Wait... what? no."])]
    #[case("日本語です。次の文。", &["日本語です。", "次の文。"])]
    #[case("  ", &[])]
    fn sentences_end_where_a_reader_sees_it(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(sentences(text).collect::<Vec<_>>(), expected);
    }
}
