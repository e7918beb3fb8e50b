//! What a ticket asks of the others it is matched with: a filter over their properties.
//!
//! ```text
//! region = "eu" and abs(skill - self.skill) <= 200 and (version >= 3 or beta) and role in ["tank", "healer"]
//! ```
//!
//! A name is the other ticket's property, `self.name` one's own. There are numbers, texts in double quotes (`\"` and `\\` inside),
//! `true` and `false`; `+ - * /`, `abs(x)`, `min(x, y)`, `max(x, y)`; `= != < <= > >=` and `in [...]`; `and`, `or`, `not`, brackets.
//! Only numbers have an order. A comparison with a property that is missing, or of another kind, is false, and so is its contrary `!=`;
//! `not` turns it true.
//!
//! Two tickets fit when each one's filter accepts the other; a ticket without a filter accepts everybody. Parsing and evaluation are bounded
//! by [`MAX_BYTES`], [`MAX_NODES`] and [`MAX_DEPTH`].

mod facts;
mod parse;

pub use facts::{Fact, Facts};

/// Longest text of a filter.
pub const MAX_BYTES: usize = 1_024;
/// Names, values and operators in one filter; evaluation costs no more steps than that.
pub const MAX_NODES: usize = 128;
/// Nesting of brackets and operators.
pub const MAX_DEPTH: usize = 32;

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at {position})")]
pub struct QueryError {
    /// Byte of the text, from 0.
    pub position: usize,
    /// A sentence for whoever wrote the filter.
    pub message: String,
}

/// A filter that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    root: Expr,
}

/// What a filter demands so plainly that an index can look for it: whoever does not have it does not fit.
#[derive(Debug, Clone, PartialEq)]
pub enum Demand<'q> {
    /// The other's property is this text.
    Text(&'q str, String),
    /// The other's property is a number in this closed range.
    Range(&'q str, f64, f64),
}

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Value(Fact),
    Other(Box<str>),
    Own(Box<str>),
    Negate(Box<Expr>),
    Abs(Box<Expr>),
    Math(Math, Box<Expr>, Box<Expr>),
    Compare(Order, Box<Expr>, Box<Expr>),
    In(Box<Expr>, Vec<Fact>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Math {
    Add,
    Subtract,
    Multiply,
    Divide,
    Min,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// A value while it is reckoned with; texts are borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reckoned<'a> {
    Number(f64),
    Text(&'a str),
    Bool(bool),
    Missing,
}

impl<'a> From<Option<&'a Fact>> for Reckoned<'a> {
    fn from(fact: Option<&'a Fact>) -> Self {
        match fact {
            Some(Fact::Number(n)) => Self::Number(*n),
            Some(Fact::Text(text)) => Self::Text(text),
            Some(Fact::Bool(b)) => Self::Bool(*b),
            None => Self::Missing,
        }
    }
}

impl Query {
    /// Reads a filter.
    ///
    /// # Errors
    /// It is too long, too deep, or not of this language; the error says where.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        parse::parse(text).map(|root| Self { root })
    }

    /// Whether whoever has the properties `own` accepts who has `other`.
    #[must_use]
    pub fn accepts(&self, own: &Facts, other: &Facts) -> bool {
        self.root.holds(own, other)
    }

    /// What every accepted ticket must have, as far as it is plain from the conditions that are joined by `and`.
    #[must_use]
    pub fn demands(&self, own: &Facts) -> Vec<Demand<'_>> {
        let mut demands = Vec::new();
        self.root.demands(own, &mut demands);
        demands
    }
}

impl Expr {
    fn holds(&self, own: &Facts, other: &Facts) -> bool {
        matches!(self.reckon(own, other), Reckoned::Bool(true))
    }

    fn reckon<'a>(&'a self, own: &'a Facts, other: &'a Facts) -> Reckoned<'a> {
        match self {
            Self::Value(fact) => Some(fact).into(),
            Self::Other(name) => other.get(name).into(),
            Self::Own(name) => own.get(name).into(),
            Self::Negate(of) => number(of.reckon(own, other), |n| -n),
            Self::Abs(of) => number(of.reckon(own, other), f64::abs),
            Self::Math(math, left, right) => match (left.reckon(own, other), right.reckon(own, other)) {
                (Reckoned::Number(a), Reckoned::Number(b)) => Reckoned::Number(math.of(a, b)),
                _ => Reckoned::Missing,
            },
            Self::Compare(order, left, right) => {
                Reckoned::Bool(order.holds(left.reckon(own, other), right.reckon(own, other)))
            }
            Self::In(of, facts) => {
                let of = of.reckon(own, other);
                Reckoned::Bool(of != Reckoned::Missing && facts.iter().any(|fact| Reckoned::from(Some(fact)) == of))
            }
            Self::Not(of) => Reckoned::Bool(!of.holds(own, other)),
            Self::And(left, right) => Reckoned::Bool(left.holds(own, other) && right.holds(own, other)),
            Self::Or(left, right) => Reckoned::Bool(left.holds(own, other) || right.holds(own, other)),
        }
    }

    fn demands<'q>(&'q self, own: &Facts, found: &mut Vec<Demand<'q>>) {
        match self {
            Self::And(left, right) => {
                left.demands(own, found);
                right.demands(own, found);
            }
            Self::Compare(order, left, right) => {
                found.extend(demand(*order, left, right, own).or_else(|| demand(order.turned(), right, left, own)));
            }
            _ => {}
        }
    }

    /// Whether it can be reckoned without the other ticket.
    fn is_own(&self) -> bool {
        match self {
            Self::Value(_) | Self::Own(_) => true,
            Self::Other(_) => false,
            Self::Negate(of) | Self::Abs(of) | Self::Not(of) | Self::In(of, _) => of.is_own(),
            Self::Math(_, a, b) | Self::Compare(_, a, b) | Self::And(a, b) | Self::Or(a, b) => a.is_own() && b.is_own(),
        }
    }
}

/// The demand of `subject order bound`, where the bound is one's own.
fn demand<'q>(order: Order, subject: &'q Expr, bound: &Expr, own: &Facts) -> Option<Demand<'q>> {
    if !bound.is_own() {
        return None;
    }
    let nobody = Facts::default();
    let bound = bound.reckon(own, &nobody);
    match (subject, bound) {
        (Expr::Other(name), Reckoned::Text(text)) if order == Order::Equal => Some(Demand::Text(name, text.to_owned())),
        (Expr::Other(name), Reckoned::Number(n)) => {
            let (low, high) = order.range(n)?;
            Some(Demand::Range(name, low, high))
        }
        (Expr::Abs(difference), Reckoned::Number(n)) if matches!(order, Order::Less | Order::AtMost) => {
            let Expr::Math(Math::Subtract, left, right) = &**difference else { return None };
            let (name, middle) = match (&**left, &**right) {
                (Expr::Other(name), middle) | (middle, Expr::Other(name)) if middle.is_own() => (name, middle),
                _ => return None,
            };
            let Reckoned::Number(middle) = middle.reckon(own, &nobody) else { return None };
            Some(Demand::Range(name, middle - n, middle + n))
        }
        _ => None,
    }
}

fn number<'a>(value: Reckoned<'a>, of: impl Fn(f64) -> f64) -> Reckoned<'a> {
    match value {
        Reckoned::Number(n) => Reckoned::Number(of(n)),
        _ => Reckoned::Missing,
    }
}

impl Math {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }
}

impl Order {
    fn holds(self, a: Reckoned<'_>, b: Reckoned<'_>) -> bool {
        match (a, b) {
            (Reckoned::Number(a), Reckoned::Number(b)) => match self {
                Self::Equal => a == b,
                Self::Unequal => a != b,
                Self::Less => a < b,
                Self::AtMost => a <= b,
                Self::Greater => a > b,
                Self::AtLeast => a >= b,
            },
            (Reckoned::Text(_), Reckoned::Text(_)) | (Reckoned::Bool(_), Reckoned::Bool(_)) => match self {
                Self::Equal => a == b,
                Self::Unequal => a != b,
                _ => false,
            },
            _ => false,
        }
    }

    /// The same with the sides exchanged.
    fn turned(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::AtMost => Self::AtLeast,
            Self::Greater => Self::Less,
            Self::AtLeast => Self::AtMost,
            same => same,
        }
    }

    /// The closed range that holds all numbers in this order to `n`.
    fn range(self, n: f64) -> Option<(f64, f64)> {
        match self {
            Self::Equal => Some((n, n)),
            Self::Less | Self::AtMost => Some((f64::NEG_INFINITY, n)),
            Self::Greater | Self::AtLeast => Some((n, f64::INFINITY)),
            Self::Unequal => None,
        }
    }
}

#[cfg(test)]
mod tests;
