//! Makes the text of a statement fit to be shown: one line, without the values in it.
//!
//! A statement carries what users wrote: questions, names, keys. Only its shape is needed to recognise it. Comments go as
//! well, for frameworks write request ids into them.

/// The first `limit` characters of the statement with strings and numbers replaced by `?`. Identifiers, also quoted ones,
/// and parameters (`$1`) stay. Text that was cut off within a string is a string to its end.
pub(super) fn masked(statement: &str, limit: usize) -> String {
    let mut out = Shown { text: String::new(), room: limit };
    let mut rest = statement;
    let mut is_in_word = false;
    while let Some(first) = rest.chars().next() {
        if out.room == 0 {
            break;
        }
        let (shown, length) = if let Some(length) = comment(rest) {
            (Token::Space, length)
        } else if let Some(length) = dollar_quoted(rest).filter(|_| !is_in_word) {
            (Token::Value, length)
        } else if first == '\'' {
            // An E or U& before the quote was shown as a word already; only E changes what a backslash means.
            let escapes = is_in_word && out.text.ends_with(['e', 'E']);
            (Token::Value, quoted(rest, '\'', escapes))
        } else if first == '"' {
            (Token::AsIs, quoted(rest, '"', false))
        } else if !is_in_word && rest.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit()) {
            (Token::Value, number(rest))
        } else if first.is_whitespace() || first.is_control() {
            (Token::Space, first.len_utf8())
        } else {
            (Token::AsIs, first.len_utf8())
        };
        let (token, tail) = rest.split_at(length);
        is_in_word = matches!(shown, Token::AsIs) && (first.is_alphanumeric() || first == '_' || first == '$');
        match shown {
            Token::Value => out.push('?'),
            Token::Space => out.space(),
            Token::AsIs => token.chars().for_each(|c| out.push(if c.is_control() { ' ' } else { c })),
        }
        rest = tail;
    }
    out.text.truncate(out.text.trim_end().len());
    out.text
}

enum Token {
    Value,
    Space,
    AsIs,
}

struct Shown {
    text: String,
    room: usize,
}

impl Shown {
    fn push(&mut self, c: char) {
        if self.room > 0 {
            self.text.push(c);
            self.room -= 1;
        }
    }

    fn space(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.push(' ');
        }
    }
}

fn comment(text: &str) -> Option<usize> {
    if text.starts_with("--") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    // Postgres nests comments.
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// `$$ … $$` and `$tag$ … $tag$`, but not the parameter `$1`.
fn dollar_quoted(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('$')?;
    let end = inner.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    let is_tag = inner[end..].starts_with('$') && !inner.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return None;
    }
    let (tag, body) = text.split_at(end + 2);
    Some(body.find(tag).map_or(text.len(), |at| at + 2 * tag.len()))
}

/// The length of a text in quotes, where a doubled quote stands for one.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

/// `12`, `1.5`, `.5`, `1e-9`, `0xff`, `1_000`.
fn number(text: &str) -> usize {
    let mut previous = ' ';
    let end = text.find(|c: char| {
        let is_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E');
        let is_part = c.is_ascii_alphanumeric() || c == '.' || c == '_' || is_sign;
        previous = c;
        !is_part
    });
    end.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn values_are_hidden_and_the_shape_stays() {
        for (statement, shown) in [
            ("SELECT * FROM t WHERE name = 'Ada' AND age > 42", "SELECT * FROM t WHERE name = ? AND age > ?"),
            ("SELECT 'it''s', E'a\\'b', U&'x', '' FROM t", "SELECT ?, E?, U&?, ? FROM t"),
            ("SELECT $1, $23, a1, t2.c3, \"col 7\"", "SELECT $1, $23, a1, t2.c3, \"col 7\""),
            ("SELECT $$secret$$, $tag$ it's $1 $tag$, 1", "SELECT ?, ?, ?"),
            ("SELECT -1.5e-10, .5, 0xFF, 1_000, a-3", "SELECT -?, ?, ?, ?, a-?"),
            ("SELECT 1 -- user ada\nFROM t /* trace 'x' /* nested */ */ WHERE id=7;", "SELECT ? FROM t WHERE id=?;"),
            ("  SELECT\n\t a,\r\n   b  ", "SELECT a, b"),
            ("INSERT INTO t VALUES ('cut off in the mid", "INSERT INTO t VALUES (?"),
            ("SELECT 'ünï' , \"täble\"", "SELECT ? , \"täble\""),
            ("", ""),
            ("$", "$"),
            ("'", "?"),
            ("/*", ""),
            ("$a$", "?"),
        ] {
            assert_eq!(masked(statement, 200), shown, "{statement}");
        }
    }

    #[test]
    fn the_length_is_in_characters_and_counts_after_masking() {
        assert_eq!(masked(&"é".repeat(500), 200).chars().count(), 200);
        assert_eq!(masked(&format!("SELECT '{}', 1 FROM t", "x".repeat(900)), 200), "SELECT ?, ? FROM t");
    }

    #[test]
    fn a_backslash_escapes_only_in_an_e_string() {
        assert_eq!(masked(r"SELECT 'a\' , 'b'", 200), "SELECT ? , ?");
        assert_eq!(masked(r"SELECT e'\'' , 'b'", 200), "SELECT e? , ?");
        assert_eq!(
            masked(r"SELECT the'x\' , 5", 200),
            "SELECT the?",
            "read as an escape: rather too much than too little"
        );
    }
}
