//! A scanner for Rust sources: enough to tell code from text, and to find where a function ends.
//!
//! Not a parser: `syn` would cost more to build than everything else here. What it must get right is what rustfmt lets
//! through: nested comments, raw strings, char literals beside lifetimes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Every Rust file of the workspace, sorted; neither build output nor hidden folders.
pub fn rust_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether the whole file is test code: below a `tests` or `benches` folder, or the `tests.rs` of a module.
pub fn is_test_file(path: &Path) -> bool {
    let names = path.iter().filter_map(|name| name.to_str());
    names.into_iter().any(|name| matches!(name, "tests" | "benches" | "tests.rs"))
}

/// `text` with comments, strings and char literals turned into spaces. Lines stay where they are.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at),
            b'\'' => char_end(text, at).unwrap_or(at),
            _ => at,
        };
        blank(&mut code[at..end]);
        at = end.max(at + 1);
    }
    // Only whole characters were blanked, so this is still UTF-8; lossy costs nothing and cannot fail.
    String::from_utf8_lossy(&code).into_owned()
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether the byte before belongs to the same word; the `b` and `c` of `br"…"` and `cr"…"` do not count.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    let before = |distance: usize| at.checked_sub(distance).is_some_and(|index| is_word(bytes[index]));
    before(1) && (before(2) || !matches!(bytes[at - 1], b'b' | b'c'))
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut at) = (0_usize, at);
    while at < bytes.len() {
        match &bytes[at..(at + 2).min(bytes.len())] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let length = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| open + 1 + length + close.len()))
}

/// The end of a char literal, or nothing for a lifetime.
fn char_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at + 1..];
    let mut characters = rest.chars();
    let first = characters.next()?;
    if first == '\\' {
        // The character after the backslash may itself be a quote.
        let escaped = characters.next()?.len_utf8();
        return rest[1 + escaped..].find('\'').map(|length| at + 1 + 1 + escaped + length + 1);
    }
    (characters.next() == Some('\'')).then(|| at + 1 + first.len_utf8() + 1)
}

/// `code` (see [`code_only`]) with every item under `#[cfg(test)]` turned into spaces.
pub fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test,"] {
        for (at, _) in code.match_indices(attribute) {
            let end = item_end(code.as_bytes(), at + attribute.len());
            blank(&mut bytes[at..end]);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the item that begins at `at` ends: after its `;`, or after the brace that closes its body.
fn item_end(code: &[u8], at: usize) -> usize {
    match body_start(code, at) {
        Some(open) if code[open] == b'{' => closing_brace(code, open) + 1,
        Some(semicolon) => semicolon + 1,
        None => code.len(),
    }
}

/// The first `{` or `;` outside of parentheses and brackets.
fn body_start(code: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' | b';' if depth <= 0 => return Some(at + offset),
            _ => {}
        }
    }
    None
}

fn closing_brace(code: &[u8], open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, byte) in code[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return open + offset;
        }
    }
    code.len() - 1
}

/// A function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// From that line to the closing brace.
    pub lines: usize,
}

/// The functions in `code` (see [`code_only`]), in order; one that is nested counts for itself and for the outer one.
pub fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && is_word(bytes[at - 1]) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = body_start(bytes, at).filter(|open| bytes[*open] == b'{' && !name.is_empty()) else {
            continue;
        };
        let lines = |text: &str| text.matches('\n').count() + 1;
        found.push(Function { name, line: lines(&code[..at]), lines: lines(&code[at..closing_brace(bytes, open)]) });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_chars_are_no_code() {
        let cases = [
            ("a // b {\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            (r#"f("{ \" }") + 1"#, "f( ) + 1"),
            ("r\"\\\" x", "x"),
            ("br##\"a\"# }\"## x", "b x"),
            (r"'{' '\'' '\u{7b}' x", "x"),
            ("'ä' x", "x"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("for\"{\"", "for"),
            ("r#type x", "r#type x"),
        ];
        for (text, expected) in cases {
            let code = code_only(text);
            assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{text}");
            assert_eq!(code.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn test_items_are_left_out_and_lines_stay() {
        let code =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { 1 }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let left = without_tests(code);
        assert_eq!(left.lines().count(), code.lines().count());
        let names: Vec<String> = functions(&left).into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["a", "c", "d"]);
    }

    #[test]
    fn functions_end_at_their_own_brace() {
        let text = "trait T {\n fn declared(&self, x: [u8; 4]);\n}\nfn long(\n x: fn (u8) -> u8,\n) -> u8 {\n // }\n if x { \"}\" }\n}\n";
        let found = functions(&code_only(text));
        assert_eq!(found, [Function { name: "long".to_owned(), line: 4, lines: 6 }]);
    }

    #[test]
    fn test_files_are_known_by_their_place() {
        for (path, expected) in [
            ("crates/a/tests/it/main.rs", true),
            ("crates/a/src/x/tests.rs", true),
            ("crates/testing/src/lib.rs", false),
        ] {
            assert_eq!(is_test_file(Path::new(path)), expected, "{path}");
        }
    }
}
