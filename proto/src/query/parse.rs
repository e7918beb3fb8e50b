//! Text to tree, by recursive descent.

use super::{Expr, Fact, MAX_BYTES, MAX_DEPTH, MAX_NODES, Math, Order, QueryError};

type Result<T> = std::result::Result<T, QueryError>;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(f64),
    Text(Box<str>),
    Word(Box<str>),
    /// One or two characters of `= != < <= > >= + - * / ( ) [ ] , .`
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 18] =
    ["==", "!=", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "(", ")", "[", "]", ",", ".", "!"];
const RESERVED: [&str; 8] = ["and", "or", "not", "in", "true", "false", "self", "null"];

fn error<T>(position: usize, message: impl Into<String>) -> Result<T> {
    Err(QueryError { position, message: message.into() })
}

pub fn parse(text: &str) -> Result<Expr> {
    if text.len() > MAX_BYTES {
        return error(MAX_BYTES, format!("a filter has at most {MAX_BYTES} bytes"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens, at: 0, nodes: 0, depth: 0 };
    let root = parser.condition()?;
    match parser.peek() {
        Token::End => Ok(root),
        _ => error(parser.position(), "the filter should have ended here, or go on with `and` or `or`"),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'0'..=b'9' => {
                at = end_of(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'.');
                match text[start..at].parse() {
                    Ok(number) => Token::Number(number),
                    Err(_) => return error(start, "this is no number"),
                }
            }
            b'"' => {
                let (text, end) = quoted(text, start)?;
                at = end;
                Token::Text(text.into())
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                at = end_of(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'_');
                Token::Word(text[start..at].into())
            }
            _ => match SIGNS.iter().find(|sign| text[start..].starts_with(**sign)) {
                Some(sign) => {
                    at += sign.len();
                    Token::Sign(if *sign == "==" { "=" } else { sign })
                }
                None => return error(start, "this character has no meaning here"),
            },
        };
        tokens.push((start, token));
    }
    tokens.push((text.len(), Token::End));
    Ok(tokens)
}

fn end_of(bytes: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|b| !belongs(*b)).map_or(bytes.len(), |n| from + n)
}

/// The text between the quotes that open at `start`, and where it ends.
fn quoted(text: &str, start: usize) -> Result<(String, usize)> {
    let mut content = String::new();
    let mut chars = text[start + 1..].char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((content, start + 1 + at + 1)),
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => content.push(escaped),
                _ => return error(start + 1 + at, "only \\\" and \\\\ follow a backslash"),
            },
            _ => content.push(char),
        }
    }
    error(start, "this text is not closed")
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    nodes: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    fn position(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |(position, _)| *position)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let taken = matches!(self.peek(), Token::Sign(own) if *own == sign);
        self.at += usize::from(taken);
        taken
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let taken = matches!(self.peek(), Token::Word(own) if **own == *word);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.takes(sign) { Ok(()) } else { error(self.position(), format!("`{sign}` is expected here")) }
    }

    /// Counts one more node of the tree.
    fn made(&mut self, expr: Expr) -> Result<Expr> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return error(self.position(), format!("a filter has at most {MAX_NODES} names, values and operators"));
        }
        Ok(expr)
    }

    /// One level deeper; every recursion passes through here.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return error(self.position(), format!("a filter is nested at most {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn condition(&mut self) -> Result<Expr> {
        let position = self.position();
        let expr = self.deeper(Self::either)?;
        expect_condition(&expr, position)?;
        Ok(expr)
    }

    fn either(&mut self) -> Result<Expr> {
        let position = self.position();
        let mut left = self.both()?;
        while self.takes_word("or") {
            left = self.join(Expr::Or, left, position, Self::both)?;
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Expr> {
        let position = self.position();
        let mut left = self.negation()?;
        while self.takes_word("and") {
            left = self.join(Expr::And, left, position, Self::negation)?;
        }
        Ok(left)
    }

    fn join(
        &mut self,
        joined: fn(Box<Expr>, Box<Expr>) -> Expr,
        left: Expr,
        left_at: usize,
        read: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        expect_condition(&left, left_at)?;
        let right_at = self.position();
        let right = read(self)?;
        expect_condition(&right, right_at)?;
        self.made(joined(left.into(), right.into()))
    }

    fn negation(&mut self) -> Result<Expr> {
        if self.takes_word("not") {
            let position = self.position();
            let of = self.deeper(Self::negation)?;
            expect_condition(&of, position)?;
            return self.made(Expr::Not(of.into()));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let left = self.sum()?;
        if self.takes_word("in") {
            let facts = self.list()?;
            return self.made(Expr::In(left.into(), facts));
        }
        let order = match self.peek() {
            Token::Sign("=") => Order::Equal,
            Token::Sign("!=") => Order::Unequal,
            Token::Sign("<") => Order::Less,
            Token::Sign("<=") => Order::AtMost,
            Token::Sign(">") => Order::Greater,
            Token::Sign(">=") => Order::AtLeast,
            _ => return Ok(left),
        };
        self.at += 1;
        let right = self.sum()?;
        self.made(Expr::Compare(order, left.into(), right.into()))
    }

    fn list(&mut self) -> Result<Vec<Fact>> {
        self.expect("[")?;
        let mut facts = Vec::new();
        while !self.takes("]") {
            if !facts.is_empty() {
                self.expect(",")?;
            }
            let position = self.position();
            let negative = self.takes("-");
            let fact = match (self.next(), negative) {
                (Token::Number(n), false) => Fact::Number(n),
                (Token::Number(n), true) => Fact::Number(-n),
                (Token::Text(text), false) => Fact::Text(text),
                _ => return error(position, "a list holds numbers and texts"),
            };
            self.made(Expr::Value(fact.clone()))?;
            facts.push(fact);
        }
        Ok(facts)
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut left = self.product()?;
        loop {
            let math = match self.peek() {
                Token::Sign("+") => Math::Add,
                Token::Sign("-") => Math::Subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.product()?;
            left = self.made(Expr::Math(math, left.into(), right.into()))?;
        }
    }

    fn product(&mut self) -> Result<Expr> {
        let mut left = self.factor()?;
        loop {
            let math = match self.peek() {
                Token::Sign("*") => Math::Multiply,
                Token::Sign("/") => Math::Divide,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.factor()?;
            left = self.made(Expr::Math(math, left.into(), right.into()))?;
        }
    }

    fn factor(&mut self) -> Result<Expr> {
        if self.takes("-") {
            let of = self.deeper(Self::factor)?;
            return self.made(Expr::Negate(of.into()));
        }
        let position = self.position();
        match self.next() {
            Token::Number(n) => self.made(Expr::Value(Fact::Number(n))),
            Token::Text(text) => self.made(Expr::Value(Fact::Text(text))),
            Token::Sign("(") => {
                let inner = self.deeper(Self::either)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Word(word) => self.word(word, position),
            _ => error(position, "a property, a value or `(` is expected here"),
        }
    }

    fn word(&mut self, word: Box<str>, position: usize) -> Result<Expr> {
        match &*word {
            "true" => return self.made(Expr::Value(Fact::Bool(true))),
            "false" => return self.made(Expr::Value(Fact::Bool(false))),
            "self" => {
                self.expect(".")?;
                let position = self.position();
                return match self.next() {
                    Token::Word(name) => self.made(Expr::Own(name)),
                    _ => error(position, "the name of a property is expected after `self.`"),
                };
            }
            "abs" if self.takes("(") => {
                let of = self.deeper(Self::sum)?;
                self.expect(")")?;
                return self.made(Expr::Abs(of.into()));
            }
            "min" if self.takes("(") => return self.pair(Math::Min),
            "max" if self.takes("(") => return self.pair(Math::Max),
            _ => {}
        }
        if RESERVED.contains(&&*word) {
            return error(position, format!("`{word}` is no property; a property, a value or `(` is expected here"));
        }
        if matches!(self.peek(), Token::Sign("(")) {
            return error(position, format!("there is no function `{word}`; there are abs, min and max"));
        }
        self.made(Expr::Other(word))
    }

    fn pair(&mut self, math: Math) -> Result<Expr> {
        let left = self.deeper(Self::sum)?;
        self.expect(",")?;
        let right = self.deeper(Self::sum)?;
        self.expect(")")?;
        self.made(Expr::Math(math, left.into(), right.into()))
    }
}

/// Numbers and texts are neither true nor false.
fn expect_condition(expr: &Expr, position: usize) -> Result<()> {
    match expr {
        Expr::Value(Fact::Number(_) | Fact::Text(_)) | Expr::Negate(_) | Expr::Abs(_) | Expr::Math(..) => {
            error(position, "a condition is expected here, this is a value")
        }
        _ => Ok(()),
    }
}
