//! Every path that a source mentions, in full: `use a::{b, c::d}` mentions `a::b` and `a::c::d`.

/// A path as written, except that `self` and `super` at its start are replaced by where they lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    /// From 1.
    pub(super) line: usize,
    pub(super) path: Vec<String>,
    /// `name!`: a macro is called.
    pub(super) is_macro: bool,
    /// `mod name`: a module is declared.
    pub(super) is_module: bool,
}

impl Mention {
    /// Whether the path is `prefix` or begins with it.
    pub(super) fn starts_with(&self, prefix: &[&str]) -> bool {
        self.path.len() >= prefix.len() && self.path.iter().zip(prefix).all(|(segment, expected)| segment == expected)
    }

    pub(super) fn ends_with(&self, suffix: &[&str]) -> bool {
        let skip = self.path.len().checked_sub(suffix.len());
        skip.is_some_and(|skip| self.path[skip..].iter().zip(suffix).all(|(segment, expected)| segment == expected))
    }

    pub(super) fn has_segment(&self, name: &str) -> bool {
        self.path.iter().any(|segment| segment == name)
    }

    pub(super) fn text(&self) -> String {
        self.path.join("::")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Other(char),
}

/// The mentions in `code` (without comments, strings and tests), which is the source of `module`.
pub(super) fn mentions(code: &str, module: &[String]) -> Vec<Mention> {
    let mut reader = Reader { tokens: tokens(code), at: 0, module, found: Vec::new() };
    while reader.at < reader.tokens.len() {
        reader.next_item();
    }
    reader.found
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word_end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (token, length) = if word_end > 0 {
                (Token::Word(rest[..word_end].to_owned()), word_end)
            } else if rest.starts_with("::") {
                (Token::PathSeparator, 2)
            } else {
                (Token::Other(first), first.len_utf8())
            };
            tokens.push((index + 1, token));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

struct Reader<'a> {
    tokens: Vec<(usize, Token)>,
    at: usize,
    module: &'a [String],
    found: Vec<Mention>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }

    fn is_other(&self, ahead: usize, character: char) -> bool {
        self.peek(ahead) == Some(&Token::Other(character))
    }

    fn next_item(&mut self) {
        match self.peek(0) {
            // `use<'a>` is a bound, not an import.
            Some(Token::Word(word)) if word == "use" && !self.is_other(1, '<') => {
                self.at += 1;
                self.import(Vec::new());
            }
            Some(Token::Word(word)) if word == "mod" => {
                self.at += 1;
                self.path(true);
            }
            Some(Token::Word(_)) => self.path(false),
            _ => self.at += 1,
        }
    }

    /// `a::b`, at `a`.
    fn path(&mut self, is_module: bool) {
        let line = self.tokens[self.at].0;
        let path = self.segments();
        if path.is_empty() {
            return;
        }
        let is_macro = self.is_other(0, '!') && !self.is_other(1, '=');
        self.found.push(Mention { line, path: self.resolved(path), is_macro, is_module });
    }

    /// Words joined by `::`; stops before `::{`, `::*` and `::<`.
    fn segments(&mut self) -> Vec<String> {
        let mut segments = Vec::new();
        while let Some(Token::Word(word)) = self.peek(0) {
            segments.push(word.clone());
            self.at += 1;
            if self.peek(0) != Some(&Token::PathSeparator) || !matches!(self.peek(1), Some(Token::Word(_))) {
                break;
            }
            self.at += 1;
        }
        segments
    }

    /// One branch of an import, after `prefix`; ends before `,`, `}` or `;`.
    fn import(&mut self, prefix: Vec<String>) {
        let line = self.tokens.get(self.at).map_or(0, |(line, _)| *line);
        if self.peek(0) == Some(&Token::PathSeparator) {
            self.at += 1;
        }
        let path = [prefix, self.segments()].concat();
        if self.peek(0) == Some(&Token::PathSeparator) && self.is_other(1, '{') {
            self.at += 1;
        }
        if self.is_other(0, '{') {
            self.at += 1;
            while self.at < self.tokens.len() && !self.is_other(0, '}') {
                if self.is_other(0, ',') {
                    self.at += 1;
                } else {
                    self.import(path.clone());
                }
            }
            self.at += 1;
        } else {
            self.found.push(Mention { line, path: self.resolved(path), is_macro: false, is_module: false });
        }
        // `as name`, `::*`, and whatever else a branch can end with.
        while self.at < self.tokens.len() && ![',', '}', ';'].iter().any(|end| self.is_other(0, *end)) {
            self.at += 1;
        }
    }

    fn resolved(&self, path: Vec<String>) -> Vec<String> {
        let up = path.iter().take_while(|segment| *segment == "super").count();
        let own = usize::from(path.first().is_some_and(|segment| segment == "self"));
        if up + own == 0 || (own == 1 && path.len() == 1) {
            return path;
        }
        // More `super` than modules means an inline module; its own depth is not known here, so stay at the root.
        let kept = self.module.len().saturating_sub(up);
        let base = std::iter::once("crate".to_owned()).chain(self.module[..kept].iter().cloned());
        base.chain(path.into_iter().skip(up + own)).collect()
    }
}

#[test]
fn imports_are_expanded_and_relative_paths_resolved() {
    let code = "use a::{self, b::{c as d, e}, f::*};\npub mod g;\nfn h(x: super::super::i::J) -> self::k::L<m::N> {\n p!(q::<r::S>)\n}";
    let module = ["one".to_owned(), "two".to_owned()];
    let found = mentions(code, &module);
    let has = |path: &str, line: usize| found.iter().any(|mention| mention.text() == path && mention.line == line);
    let expected = [
        ("a::self", 1),
        ("a::b::c", 1),
        ("a::b::e", 1),
        ("a::f", 1),
        ("crate::i::J", 3),
        ("crate::one::two::k::L", 3),
        ("m::N", 3),
        ("r::S", 4),
    ];
    for (path, line) in expected {
        assert!(has(path, line), "{path} is missing: {found:#?}");
    }
    assert!(found.iter().any(|mention| mention.is_module && mention.text() == "g"));
    assert!(found.iter().any(|mention| mention.is_macro && mention.text() == "p"));
}
