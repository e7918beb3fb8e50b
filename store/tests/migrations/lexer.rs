//! Statements of a SQL file as words: enough of the grammar to know what is a comment, a string, a function's body and the end of a statement.

/// One word, sign or literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// In lower case; quoted names as they are.
    Word(String),
    Sign(char),
    /// A string, a number, or a body between dollars.
    Literal(String),
}

/// A file's statements and its line comments, each without its dashes.
#[derive(Debug, Default)]
pub struct File {
    pub statements: Vec<Vec<Token>>,
    pub comments: Vec<String>,
}

pub fn read(text: &str) -> File {
    let mut file = File::default();
    let mut statement = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, length) = if let Some(comment) = rest.strip_prefix("--") {
            let end = comment.find('\n').unwrap_or(comment.len());
            file.comments.push(comment[..end].trim().to_owned());
            (None, 2 + end)
        } else if rest.starts_with("/*") {
            (None, block_comment(rest))
        } else if first == '\'' {
            let end = quoted(rest, '\'');
            (Some(Token::Literal(rest[1..end.saturating_sub(1).max(1)].to_owned())), end)
        } else if first == '"' {
            let end = quoted(rest, '"');
            (Some(Token::Word(rest[1..end.saturating_sub(1).max(1)].to_owned())), end)
        } else if let Some((body, end)) = dollars(rest) {
            (Some(Token::Literal(body.to_owned())), end)
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
            (Some(Token::Word(rest[..end].to_lowercase())), end)
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_').unwrap_or(rest.len());
            (Some(Token::Literal(rest[..end].to_owned())), end)
        } else if first == ';' {
            if !statement.is_empty() {
                file.statements.push(std::mem::take(&mut statement));
            }
            (None, 1)
        } else {
            let sign = (!first.is_whitespace()).then_some(Token::Sign(first));
            (sign, first.len_utf8())
        };
        statement.extend(token);
        rest = &rest[length..];
    }
    if !statement.is_empty() {
        file.statements.push(statement);
    }
    file
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let step = rest.chars().next().map_or(1, char::len_utf8);
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += step;
        }
    }
    text.len()
}

/// Where a quoted thing ends, past its last quote; a doubled quote is one of its signs.
fn quoted(text: &str, quote: char) -> usize {
    let mut signs = text.char_indices().skip(1).peekable();
    while let Some((at, sign)) = signs.next() {
        if sign == quote {
            match signs.peek() {
                Some((_, next)) if *next == quote => drop(signs.next()),
                _ => return at + 1,
            }
        }
    }
    text.len()
}

/// `$tag$ … $tag$`: what is in it, and where it ends.
fn dollars(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix('$')?;
    let tag = inner.find('$')?;
    let name = &inner[..tag];
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.contains(|c: char| !c.is_alphanumeric() && c != '_') {
        return None;
    }
    let mark = &text[..tag + 2];
    let body = &text[mark.len()..];
    let end = body.find(mark).unwrap_or(body.len());
    Some((&body[..end], (mark.len() + end + mark.len()).min(text.len())))
}

#[test]
fn what_looks_like_sql_in_strings_bodies_and_comments_is_none() {
    let file = read(
        "-- first; note\nSELECT 'it''s; -- x', \"A;b\", $$ drop; $$, $a1$ $$;$$ $a1$ /* ; /* ; */ ; */ FROM t; UPDATE Foo SET a=$1;;",
    );
    assert_eq!(file.comments, ["first; note"]);
    assert_eq!(file.statements.len(), 2, "{file:?}");
    let literals = file.statements[0].iter().filter(|token| matches!(token, Token::Literal(_))).count();
    assert_eq!(literals, 3, "{:?}", file.statements[0]);
    assert_eq!(file.statements[1][..2], [Token::Word("update".into()), Token::Word("foo".into())]);
}
