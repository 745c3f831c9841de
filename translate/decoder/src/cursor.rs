//! Reading a line's tokens one after another.

use crate::declaration::{Atom, Clause, Expression, Test};
use crate::error::{Error, Place};
use crate::parse::is_picture;
use crate::token::Token;

/// Brackets that a condition may nest.
const MAX_DEPTH: usize = 16;

/// Numbers of a range: more than a field has whose values can be listed.
const MAX_RANGE: u32 = 4096;

/// Where one is in a line.
pub(crate) struct Cursor<'a> {
    place: &'a Place,
    tokens: &'a [Token],
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(place: &'a Place, tokens: &'a [Token]) -> Self {
        Self { place, tokens, depth: 0 }
    }

    pub(crate) fn place(&self) -> &'a Place {
        self.place
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> Error {
        Error::new(self.place, message)
    }

    pub(crate) fn at_end(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Moves past a token.
    pub(crate) fn skip(&mut self) {
        self.tokens = self.tokens.get(1..).unwrap_or_default();
    }

    /// An error if something is left.
    pub(crate) fn end(&self) -> Result<(), Error> {
        match self.tokens.first() {
            None => Ok(()),
            Some(token) => Err(self.error(format!("{} is not expected here", shown(token)))),
        }
    }

    /// Moves past a mark if it comes next.
    pub(crate) fn accept(&mut self, mark: &str) -> bool {
        let next = matches!(self.tokens.first(), Some(Token::Mark(found)) if *found == mark);
        if next {
            self.skip();
        }
        next
    }

    /// Moves past a word if it comes next.
    pub(crate) fn accept_word(&mut self, word: &str) -> bool {
        let next = self.peek_word() == Some(word);
        if next {
            self.skip();
        }
        next
    }

    pub(crate) fn expect(&mut self, mark: &str) -> Result<(), Error> {
        if self.accept(mark) { Ok(()) } else { Err(self.missing(&format!("{mark:?}"))) }
    }

    fn missing(&self, what: &str) -> Error {
        match self.tokens.first() {
            Some(token) => self.error(format!("{what} is expected, not {}", shown(token))),
            None => self.error(format!("{what} is expected at the end of the line")),
        }
    }

    pub(crate) fn peek_word(&self) -> Option<&str> {
        match self.tokens.first() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    pub(crate) fn word(&mut self, what: &str) -> Result<String, Error> {
        let Some(word) = self.peek_word().map(str::to_owned) else { return Err(self.missing(what)) };
        self.skip();
        Ok(word)
    }

    /// All words that follow.
    pub(crate) fn words(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(word) = self.peek_word().map(str::to_owned) {
            self.skip();
            words.push(word);
        }
        words
    }

    /// A quoted text if one comes next.
    pub(crate) fn text(&mut self) -> Option<String> {
        let Some(Token::Text(text)) = self.tokens.first() else { return None };
        self.skip();
        Some(text.clone())
    }

    /// Decimal, or hexadecimal after `0x`; a minus may precede it. The magnitude stays below 2⁴⁸.
    pub(crate) fn number(&mut self, what: &str) -> Result<i64, Error> {
        let negative = self.accept("-");
        let word = self.word(what)?;
        let parsed = match word.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        match parsed {
            Ok(number) if (0..1 << 48).contains(&number) => Ok(if negative { -number } else { number }),
            _ => Err(self.error(format!("{word:?} is no number"))),
        }
    }

    /// All numbers that follow; `3..7` are those from 3 to 7.
    pub(crate) fn numbers(&mut self) -> Result<Vec<i64>, Error> {
        let mut numbers = self.number_or_range()?;
        while matches!(self.tokens.first(), Some(Token::Mark("-")))
            || self.peek_word().is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()))
        {
            numbers.extend(self.number_or_range()?);
        }
        Ok(numbers)
    }

    fn number_or_range(&mut self) -> Result<Vec<i64>, Error> {
        let Some((first, last)) = self.peek_word().and_then(|word| word.split_once("..")) else {
            return Ok(vec![self.number("a number")?]);
        };
        let ends = first.parse::<u32>().ok().zip(last.parse::<u32>().ok());
        match ends.filter(|(first, last)| first < last && last - first < MAX_RANGE) {
            Some((first, last)) => {
                self.skip();
                Ok((i64::from(first)..=i64::from(last)).collect())
            }
            None => Err(self.error(format!("\"{first}..{last}\" is no range"))),
        }
    }

    /// A picture's words, joined.
    pub(crate) fn picture(&mut self) -> String {
        let mut picture = String::new();
        while let Some(Token::Word(word)) = self.tokens.first().filter(|token| is_picture(token)) {
            picture.push_str(word);
            self.skip();
        }
        picture
    }

    /// `rd != 0, imm != 0 or rs1 == rd`; in a field's own declaration the field need not be named.
    pub(crate) fn clauses(&mut self, own: Option<&str>) -> Result<Vec<Clause>, Error> {
        let mut clauses = vec![self.clause(own)?];
        while self.accept(",") {
            clauses.push(self.clause(own)?);
        }
        Ok(clauses)
    }

    fn clause(&mut self, own: Option<&str>) -> Result<Clause, Error> {
        let mut atoms = vec![self.atom(own)?];
        while self.accept_word("or") {
            atoms.push(self.atom(own)?);
        }
        Ok(atoms)
    }

    fn atom(&mut self, own: Option<&str>) -> Result<Atom, Error> {
        let named = self.peek_word().filter(|word| !matches!(*word, "in" | "not")).map(str::to_owned);
        if named.is_some() {
            self.skip();
        }
        let Some(field) = named.or_else(|| own.map(str::to_owned)) else {
            return Err(self.missing("a field's name"));
        };
        let test = if self.accept("!=") {
            self.operand(Test::Differs, |number| Test::NotIn(vec![number]))?
        } else if self.accept("==") {
            self.operand(Test::Same, |number| Test::In(vec![number]))?
        } else if self.accept_word("in") {
            Test::In(self.numbers()?)
        } else if self.accept_word("not") {
            Test::NotIn(self.numbers()?)
        } else {
            return Err(self.missing("\"!=\", \"==\", \"in\" or \"not\""));
        };
        Ok(Atom { field, test })
    }

    fn operand(
        &mut self,
        field: impl Fn(String) -> Test,
        number: impl Fn(i64) -> Test,
    ) -> Result<Test, Error> {
        match self.peek_word() {
            Some(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => Ok(field(self.word("a field")?)),
            _ => Ok(number(self.number("a number or a field")?)),
        }
    }

    /// `zba & (rv64 | rv32) & !zfinx`; `always` for no condition.
    pub(crate) fn expression(&mut self) -> Result<Expression, Error> {
        let mut parts = vec![self.conjunction()?];
        while self.accept("|") {
            parts.push(self.conjunction()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Any(parts) })
    }

    fn conjunction(&mut self) -> Result<Expression, Error> {
        let mut parts = vec![self.literal()?];
        while self.accept("&") {
            parts.push(self.literal()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::All(parts) })
    }

    fn literal(&mut self) -> Result<Expression, Error> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format!("a condition nests more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let literal = if self.accept("!") {
            Expression::Not(Box::new(self.literal()?))
        } else if self.accept("(") {
            let inner = self.expression()?;
            self.expect(")")?;
            inner
        } else {
            match self.word("a feature's name")? {
                always if always == "always" => Expression::Always,
                name => Expression::Name(name),
            }
        };
        self.depth -= 1;
        Ok(literal)
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("{word:?}"),
        Token::Text(_) => "a quoted text".to_owned(),
        Token::Mark(mark) => format!("{mark:?}"),
    }
}
