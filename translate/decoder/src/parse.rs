//! From the text of tables to declarations. The syntax is taught by the crate's documentation.

use std::sync::Arc;

use crate::cursor::Cursor;
use crate::declaration::{
    AreaDeclaration, Argument, Declarations, ExpansionDeclaration, Expression, FeatureDeclaration,
    FieldDeclaration, FormatDeclaration, KindDeclaration, Located, PatternDeclaration, Slice, Step,
};
use crate::error::{Error, Findings, Place};
use crate::token::{Token, alternatives, logical_lines, tokens};

/// Lines all alternatives of all files may become.
const MAX_PATTERNS: usize = 20_000;

/// What the lines before say about the next.
struct State {
    width: Option<u32>,
    condition: Expression,
    /// The open group and the places given in it.
    group: Option<(usize, usize)>,
}

/// Reads one file's declarations; findings are noted and their lines left out.
pub(crate) fn parse(file: &str, text: &str, into: &mut Declarations, findings: &mut Findings) {
    let file: Arc<str> = file.into();
    let mut state = State { width: None, condition: Expression::Always, group: None };
    let mut last = 1;
    for (number, line) in logical_lines(text) {
        last = number;
        let place = Place { file: Arc::clone(&file), line: number };
        let lines = findings.take(alternatives(&place, &line)).unwrap_or_default();
        for line in lines {
            findings.take(parse_line(&place, &line, &mut state, into));
        }
    }
    if state.group.is_some() {
        findings.add(&Place { file, line: last }, "a group opened with \"first {\" is not closed");
    }
}

fn parse_line(place: &Place, line: &str, state: &mut State, into: &mut Declarations) -> Result<(), Error> {
    let tokens = tokens(place, line)?;
    let mut cursor = Cursor::new(place, &tokens);
    let located = |it| Located { place: place.clone(), it };
    if cursor.accept("}") {
        if state.group.take().is_none() {
            return Err(Error::new(place, "there is no group to close"));
        }
        return cursor.end();
    }
    let word = cursor.word("a declaration or an instruction's name")?;
    if cursor.accept(":") {
        if into.patterns.len() >= MAX_PATTERNS {
            return Err(Error::new(place, format!("more than {MAX_PATTERNS} instructions")));
        }
        into.patterns.push(located_pattern(place, pattern(word, &mut cursor, state)?));
        return cursor.end();
    }
    match word.as_str() {
        "width" => {
            let width = cursor.number("a width")?;
            if ![16, 32, 64].contains(&width) {
                return Err(Error::new(place, format!("a word has 16, 32 or 64 bits, not {width}")));
            }
            state.width = Some(width as u32);
        }
        "feature" => {
            let name = cursor.word("a feature's name")?;
            let about = cursor.text();
            into.features.push(Located { place: place.clone(), it: FeatureDeclaration { name, about } });
        }
        "exclusive" => {
            into.exclusive.push(Located { place: place.clone(), it: cursor.words() });
        }
        "when" => state.condition = cursor.expression()?,
        "kind" => into.kinds.push(Located { place: place.clone(), it: kind(&mut cursor)? }),
        "field" => {
            let width = state_width(place, state)?;
            into.fields.push(Located { place: place.clone(), it: field(&mut cursor, width)? });
        }
        "format" => {
            let width = state_width(place, state)?;
            into.formats.push(Located { place: place.clone(), it: format(&mut cursor, width)? });
        }
        "first" => {
            cursor.expect("{")?;
            if state.group.is_some() {
                return Err(Error::new(place, "groups do not nest"));
            }
            state.group = Some((into.groups, 0));
            into.groups += 1;
        }
        "cover" | "reserved" => {
            let width = state_width(place, state)?;
            let area = AreaDeclaration { width, picture: cursor.picture(), covered: word == "cover" };
            into.areas.push(located(area));
        }
        other => {
            return Err(Error::new(
                place,
                format!("{other:?} declares nothing; an instruction needs a \":\" after its name"),
            ));
        }
    }
    cursor.end()
}

fn located_pattern(place: &Place, it: PatternDeclaration) -> Located<PatternDeclaration> {
    Located { place: place.clone(), it }
}

fn state_width(place: &Place, state: &State) -> Result<u32, Error> {
    state.width.ok_or_else(|| {
        Error::new(place, "the file has not said \"width 16\", \"width 32\" or \"width 64\" yet")
    })
}

fn kind(cursor: &mut Cursor<'_>) -> Result<KindDeclaration, Error> {
    let name = cursor.word("a kind's name")?;
    match cursor.word("\"names\" or \"custom\"")?.as_str() {
        "custom" => Ok(KindDeclaration { name, names: None }),
        "names" => Ok(KindDeclaration { name, names: Some(cursor.words()) }),
        other => Err(cursor.error(format!("a kind has \"names\" or is \"custom\", not {other:?}"))),
    }
}

fn field(cursor: &mut Cursor<'_>, width: u32) -> Result<FieldDeclaration, Error> {
    let name = cursor.word("a field's name")?;
    let kind = if cursor.accept(":") { Some(cursor.word("a kind")?) } else { None };
    cursor.expect("=")?;
    let signed = cursor.accept_word("signed");
    let mut slices = Vec::new();
    while let Some(slice) = slice(cursor)? {
        slices.push(slice);
    }
    let mut steps = Vec::new();
    let mut limits = Vec::new();
    loop {
        if cursor.accept("<<") {
            steps.push(Step::ShiftLeft(cursor.number("a shift")?.clamp(0, 64) as u32));
        } else if cursor.accept("+") {
            steps.push(Step::Add(cursor.number("a number")?));
        } else if cursor.accept("-") {
            steps.push(Step::Add(-cursor.number("a number")?));
        } else if cursor.accept_word("from") {
            steps.push(Step::From(cursor.number("a number")?));
        } else if cursor.accept_word("map") {
            steps.push(Step::Map(cursor.numbers()?));
        } else if cursor.accept_word("where") {
            limits = cursor.clauses(Some(&name))?;
        } else {
            break;
        }
    }
    Ok(FieldDeclaration { name, width, kind, signed, slices, steps, limits })
}

/// `31:25`, `7` or `0b00`.
fn slice(cursor: &mut Cursor<'_>) -> Result<Option<Slice>, Error> {
    let Some(word) = cursor.peek_word().filter(|w| w.starts_with(|c: char| c.is_ascii_digit())) else {
        return Ok(None);
    };
    let word = word.to_owned();
    cursor.skip();
    if let Some(digits) = word.strip_prefix("0b") {
        return match u64::from_str_radix(digits, 2) {
            Ok(value) if digits.len() <= 64 => Ok(Some(Slice::Fixed { bits: digits.len() as u32, value })),
            _ => Err(cursor.error(format!("{word:?} is no row of bits"))),
        };
    }
    let bit = |cursor: &Cursor<'_>, word: &str| {
        word.parse().map_err(|_| cursor.error(format!("{word:?} is no bit's number")))
    };
    let high = bit(cursor, &word)?;
    if !cursor.accept(":") {
        return Ok(Some(Slice::Bits { high, low: high }));
    }
    let low = cursor.word("the lowest bit of a slice")?;
    let low = bit(cursor, &low)?;
    if low > high {
        return Err(cursor.error(format!("slice {high}:{low} is written from the highest bit: {low}:{high}")));
    }
    Ok(Some(Slice::Bits { high, low }))
}

fn format(cursor: &mut Cursor<'_>, width: u32) -> Result<FormatDeclaration, Error> {
    let name = cursor.word("a format's name")?;
    cursor.expect("(")?;
    let mut fields = Vec::new();
    while !cursor.accept(")") {
        if !fields.is_empty() {
            cursor.expect(",")?;
        }
        fields.push(cursor.word("a field's name")?);
    }
    let text = cursor.text().ok_or_else(|| cursor.error("a format needs a text such as \"@ {rd},{rs1}\""))?;
    let limits = if cursor.accept_word("where") { cursor.clauses(None)? } else { Vec::new() };
    Ok(FormatDeclaration { name, width, fields, text, limits })
}

fn pattern(name: String, cursor: &mut Cursor<'_>, state: &mut State) -> Result<PatternDeclaration, Error> {
    let width = state_width(cursor.place(), state)?;
    let picture = cursor.picture();
    let format = cursor.word("a format's name")?;
    let mut pattern = PatternDeclaration {
        name,
        width,
        picture,
        format,
        text: None,
        limits: Vec::new(),
        over: Vec::new(),
        condition: state.condition.clone(),
        expansion: None,
        group: state.group,
    };
    if let Some((_, place)) = &mut state.group {
        *place += 1;
    }
    while !cursor.at_end() {
        match cursor.word("\"text\", \"where\", \"over\", \"if\" or \"as\"")?.as_str() {
            "text" => {
                pattern.text =
                    Some(cursor.text().ok_or_else(|| cursor.error("\"text\" needs a quoted text"))?);
            }
            "where" => pattern.limits = cursor.clauses(None)?,
            "over" => {
                pattern.over.push(cursor.word("an instruction's name")?);
                while cursor.accept(",") {
                    pattern.over.push(cursor.word("an instruction's name")?);
                }
            }
            "if" => {
                let own = cursor.expression()?;
                pattern.condition = match pattern.condition {
                    Expression::Always => own,
                    before => Expression::All(vec![before, own]),
                };
            }
            "as" => pattern.expansion = Some(expansion(cursor)?),
            other => {
                return Err(cursor.error(format!(
                    "{other:?} is none of \"text\", \"where\", \"over\", \"if\" and \"as\", which may follow a format"
                )));
            }
        }
    }
    Ok(pattern)
}

fn expansion(cursor: &mut Cursor<'_>) -> Result<ExpansionDeclaration, Error> {
    let name = cursor.word("an instruction's name")?;
    let mut arguments = Vec::new();
    if cursor.accept("(") {
        while !cursor.accept(")") {
            if !arguments.is_empty() {
                cursor.expect(",")?;
            }
            let field = cursor.word("a field's name")?;
            cursor.expect("=")?;
            let argument = match cursor.peek_word() {
                Some(word) if word.starts_with(|c: char| !c.is_ascii_digit()) => {
                    Argument::Field(cursor.word("a field")?)
                }
                _ => Argument::Constant(cursor.number("a field or a number")?),
            };
            arguments.push((field, argument));
        }
    }
    Ok(ExpansionDeclaration { name, arguments })
}

/// True for a word of a picture.
pub(crate) fn is_picture(token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.chars().all(|c| matches!(c, '0' | '1' | '.' | 'x')))
}
