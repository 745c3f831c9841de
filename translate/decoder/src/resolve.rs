//! From declarations to a table: names are looked up, and each part is checked by itself.

use std::collections::HashMap;

use crate::condition::{Condition, Exclusions};
use crate::cube::{Cube, product};
use crate::declaration::{
    Argument, Clause, Declarations, Expression, FormatDeclaration, Located, PatternDeclaration,
};
use crate::error::{Error, Findings, Place};
use crate::resolve_field::{self, KindNames};
use crate::table::{
    Area, Expansion, Feature, Field, Format, Kind, KindOf, Limit, Number, Pattern, Piece, Source, Table,
};

/// Features are bits of a `u128`.
const MAX_FEATURES: usize = 128;

/// Looks up all names. What cannot be resolved is noted and left out.
pub(crate) fn resolve(declarations: &Declarations, findings: &mut Findings) -> Table {
    let (features, feature_names) = features(declarations, findings);
    let exclusions = exclusions(declarations, &feature_names, findings);
    let (mut kinds, kind_names) = kinds(declarations, findings);
    let (fields, field_names) = fields(declarations, &kind_names, findings);
    size_kinds(&mut kinds, &fields, findings);
    let resolver = Resolver { features: &feature_names, fields: &fields, field_names: &field_names };
    let (formats, format_names) = resolver.formats(declarations, findings);
    let patterns = resolver.patterns(declarations, &formats, &format_names, findings);
    let areas = areas(declarations, findings);
    Table { features, exclusions, kinds, fields, formats, patterns, areas }
}

type Names = HashMap<String, usize>;

/// Numbers declarations by name; a name given twice is a finding, and the first stays.
fn number<'a>(
    what: &str,
    named: impl Iterator<Item = (&'a Place, &'a str)>,
    findings: &mut Findings,
) -> Vec<bool> {
    let mut seen: HashMap<String, &Place> = HashMap::new();
    named
        .map(|(place, name)| match seen.get(name) {
            Some(before) => {
                findings.add(place, format!("{what} {name:?} is already declared at {before}"));
                false
            }
            None => {
                seen.insert(name.to_owned(), place);
                true
            }
        })
        .collect()
}

fn features(declarations: &Declarations, findings: &mut Findings) -> (Vec<Feature>, Names) {
    let all = &declarations.features;
    let fresh = number("feature", all.iter().map(|d| (&d.place, d.it.name.as_str())), findings);
    let kept: Vec<_> = all.iter().zip(fresh).filter(|(_, fresh)| *fresh).map(|(d, _)| d).collect();
    if let Some(excess) = kept.get(MAX_FEATURES) {
        findings.add(&excess.place, format!("more than {MAX_FEATURES} features"));
    }
    let names = kept.iter().enumerate().map(|(index, d)| (d.it.name.clone(), index)).collect();
    let features = kept.iter().map(|d| Feature {
        name: d.it.name.clone(),
        place: d.place.clone(),
        about: d.it.about.clone(),
    });
    (features.collect(), names)
}

fn exclusions(declarations: &Declarations, names: &Names, findings: &mut Findings) -> Exclusions {
    let set = |set: &Located<Vec<String>>, findings: &mut Findings| {
        let find = |name: &String| {
            names
                .get(name)
                .copied()
                .ok_or_else(|| Error::new(&set.place, format!("there is no feature {name:?}")))
        };
        set.it.iter().filter_map(|name| findings.take(find(name))).collect()
    };
    Exclusions(declarations.exclusive.iter().map(|s| set(s, findings)).collect())
}

fn kinds(declarations: &Declarations, findings: &mut Findings) -> (Vec<Kind>, KindNames) {
    let all = &declarations.kinds;
    let fresh = number("kind", all.iter().map(|d| (&d.place, d.it.name.as_str())), findings);
    let mut names = KindNames::from([
        ("dec".to_owned(), KindOf::Decimal),
        ("hex".to_owned(), KindOf::Hexadecimal),
        ("target".to_owned(), KindOf::Target),
        ("flag".to_owned(), KindOf::Flag),
    ]);
    let mut kinds = Vec::new();
    for (declaration, fresh) in all.iter().zip(fresh) {
        let name = &declaration.it.name;
        let begins = name.starts_with(|c: char| c.is_ascii_uppercase());
        if !begins || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            findings.add(&declaration.place, format!("kind {name:?} becomes a type: write it like \"Xreg\""));
        } else if fresh {
            names.insert(name.clone(), KindOf::Named(kinds.len()));
            let (place, names) = (declaration.place.clone(), declaration.it.names.clone());
            kinds.push(Kind { name: name.clone(), place, names, number: Number::U8 });
        }
    }
    (kinds, names)
}

fn fields(declarations: &Declarations, kinds: &KindNames, findings: &mut Findings) -> (Vec<Field>, Names) {
    let all = &declarations.fields;
    let fresh = number("field", all.iter().map(|d| (&d.place, d.it.name.as_str())), findings);
    let (mut fields, mut names) = (Vec::new(), Names::new());
    for (declaration, _) in all.iter().zip(fresh).filter(|(_, fresh)| *fresh) {
        if let Some(field) = findings.take(resolve_field::field(&declaration.place, &declaration.it, kinds)) {
            names.insert(field.name.clone(), fields.len());
            fields.push(field);
        }
    }
    // A field's own limits may compare it with others, so they wait until all are known.
    for declaration in all {
        let Some(index) = names.get(&declaration.it.name) else { continue };
        if let Some(limits) = findings.take(limits(
            &declaration.place,
            &declaration.it.limits,
            &fields,
            &names,
            declaration.it.width,
        )) {
            fields[*index].limits = limits;
        }
    }
    (fields, names)
}

fn limits(
    place: &Place,
    clauses: &[Clause],
    fields: &[Field],
    names: &Names,
    width: u32,
) -> Result<Vec<Limit>, Error> {
    let find = |name: &str| match names.get(name) {
        Some(index) if fields[*index].width == width => Ok(*index),
        Some(_) => Err(Error::new(place, format!("field {name:?} is of words of another width"))),
        None => Err(Error::new(place, format!("there is no field {name:?}"))),
    };
    clauses.iter().map(|clause| resolve_field::limit(place, clause, fields, &find)).collect()
}

/// A kind's type holds all its fields, and its names suffice for them.
fn size_kinds(kinds: &mut [Kind], fields: &[Field], findings: &mut Findings) {
    for (index, kind) in kinds.iter_mut().enumerate() {
        let mut range = (0, 0);
        for field in fields.iter().filter(|field| field.kind == KindOf::Named(index)) {
            range = (range.0.min(field.range.0), range.1.max(field.range.1));
            let count = kind.names.as_ref().map_or(usize::MAX, Vec::len);
            if kind.names.is_some() && (field.range.0 < 0 || field.range.1 >= count as i128) {
                findings.add(
                    &field.place,
                    format!(
                        "field {:?} goes from {} to {}, but kind {:?} has {count} names",
                        field.name, field.range.0, field.range.1, kind.name
                    ),
                );
            }
        }
        kind.number = Number::for_range(range.0, range.1);
    }
}

fn areas(declarations: &Declarations, findings: &mut Findings) -> Vec<Area> {
    let area = |d: &Located<crate::declaration::AreaDeclaration>| {
        let (cube, _, _) = picture(&d.place, &d.it.picture, d.it.width)?;
        Ok(Area { place: d.place.clone(), width: d.it.width, cube, covered: d.it.covered })
    };
    declarations.areas.iter().filter_map(|d| findings.take(area(d))).collect()
}

/// Fixed bits, operand bits and don't-care bits.
fn picture(place: &Place, picture: &str, width: u32) -> Result<(Cube, u64, u64), Error> {
    if picture.len() != width as usize {
        return Err(Error::new(place, format!("the picture has {} bits, the word {width}", picture.len())));
    }
    let (mut cube, mut operand, mut free) = (Cube::ALL, 0, 0);
    for (bit, c) in (0..width).rev().zip(picture.chars()) {
        let at = 1u64 << bit;
        match c {
            '.' => operand |= at,
            'x' => free |= at,
            c => {
                cube.mask |= at;
                cube.value |= if c == '1' { at } else { 0 };
            }
        }
    }
    Ok((cube, operand, free))
}

struct Resolver<'a> {
    features: &'a Names,
    fields: &'a [Field],
    field_names: &'a Names,
}

impl Resolver<'_> {
    fn formats(&self, declarations: &Declarations, findings: &mut Findings) -> (Vec<Format>, Names) {
        let all = &declarations.formats;
        let fresh = number("format", all.iter().map(|d| (&d.place, d.it.name.as_str())), findings);
        let (mut formats, mut names) = (Vec::new(), Names::new());
        for (declaration, _) in all.iter().zip(fresh).filter(|(_, fresh)| *fresh) {
            if let Some(format) = findings.take(self.format(&declaration.place, &declaration.it)) {
                names.insert(format.name.clone(), formats.len());
                formats.push(format);
            }
        }
        (formats, names)
    }

    fn format(&self, place: &Place, it: &FormatDeclaration) -> Result<Format, Error> {
        let mut fields = Vec::new();
        for name in &it.fields {
            let index = self.field(place, name)?;
            if self.fields[index].width != it.width {
                return Err(Error::new(place, format!("field {name:?} is of words of another width")));
            }
            if fields.contains(&index) {
                return Err(Error::new(place, format!("format {:?} names field {name:?} twice", it.name)));
            }
            fields.push(index);
        }
        let text = self.text(place, &it.text, &fields)?;
        let limits = limits(place, &it.limits, self.fields, self.field_names, it.width)?;
        Ok(Format { name: it.name.clone(), place: place.clone(), width: it.width, fields, text, limits })
    }

    fn field(&self, place: &Place, name: &str) -> Result<usize, Error> {
        let found = self.field_names.get(name).copied();
        found.ok_or_else(|| Error::new(place, format!("there is no field {name:?}")))
    }

    /// `@` is the instruction's name, `{field}` an operand.
    fn text(&self, place: &Place, text: &str, fields: &[usize]) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('@') {
                pieces.push(Piece::Mnemonic);
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let Some((name, after)) = after.split_once('}') else {
                    return Err(Error::new(place, "a \"{\" in the text has no \"}\""));
                };
                let index = self.field(place, name)?;
                if !fields.contains(&index) {
                    return Err(Error::new(
                        place,
                        format!("the text prints {name:?}, which the format does not have"),
                    ));
                }
                pieces.push(Piece::Field(index));
                rest = after;
            } else {
                let end = rest.find(['@', '{']).unwrap_or(rest.len());
                pieces.push(Piece::Literal(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
        Ok(pieces)
    }

    fn patterns(
        &self,
        declarations: &Declarations,
        formats: &[Format],
        format_names: &Names,
        findings: &mut Findings,
    ) -> Vec<Pattern> {
        let all = &declarations.patterns;
        let fresh = number("instruction", all.iter().map(|d| (&d.place, d.it.name.as_str())), findings);
        let (mut patterns, mut names, mut kept) = (Vec::new(), Names::new(), Vec::new());
        for (declaration, _) in all.iter().zip(fresh).filter(|(_, fresh)| *fresh) {
            let format = format_names.get(&declaration.it.format).copied().ok_or_else(|| {
                Error::new(&declaration.place, format!("there is no format {:?}", declaration.it.format))
            });
            let pattern =
                format.and_then(|f| self.pattern(&declaration.place, &declaration.it, f, &formats[f]));
            if let Some(pattern) = findings.take(pattern) {
                names.insert(pattern.name.clone(), patterns.len());
                patterns.push(pattern);
                kept.push(&declaration.it);
            }
        }
        // Instructions name others only once all are known.
        for (index, declaration) in kept.iter().enumerate() {
            let place = patterns[index].place.clone();
            let over = declaration.over.iter().map(|name| find_pattern(&place, &names, name));
            let over: Vec<usize> = over.filter_map(|found| findings.take(found)).collect();
            let expansion = self.expansion(&place, declaration, &patterns, index, &names, formats, &kept);
            let expansion = findings.take(expansion).flatten();
            patterns[index].over = over;
            patterns[index].expansion = expansion;
        }
        patterns
    }

    fn pattern(
        &self,
        place: &Place,
        it: &PatternDeclaration,
        format: usize,
        shape: &Format,
    ) -> Result<Pattern, Error> {
        let (fixed, operand, free) = picture(place, &it.picture, it.width)?;
        if shape.width != it.width {
            return Err(Error::new(
                place,
                format!("format {:?} is of words of {} bits", shape.name, shape.width),
            ));
        }
        let own = limits(place, &it.limits, self.fields, self.field_names, it.width)?;
        let of_fields = shape.fields.iter().flat_map(|f| &self.fields[*f].limits);
        let limits: Vec<Limit> = of_fields.chain(&shape.limits).chain(&own).cloned().collect();
        for field in shape.fields.iter().map(|f| &self.fields[*f]) {
            if let Some(bits) = bit_list(field.mask & free) {
                return Err(Error::new(
                    place,
                    format!("field {:?} reads {bits}, which the picture gives as \"x\"", field.name),
                ));
            }
        }
        let read = shape.fields.iter().fold(0, |mask, f| mask | self.fields[*f].mask);
        let compared = limits.iter().fold(0, |mask, limit| mask | limit.mask);
        if let Some(bits) = bit_list(operand & !read & !compared) {
            return Err(Error::new(
                place,
                format!("no field of format {:?} reads {bits}; write \"x\" if nothing does", shape.name),
            ));
        }
        let cubes = limits.iter().try_fold(vec![fixed], |cubes, limit| product(&cubes, &limit.cubes));
        let cubes =
            cubes.ok_or_else(|| Error::new(place, "the conditions on its fields are too involved"))?;
        if cubes.is_empty() {
            return Err(Error::new(
                place,
                format!("{:?} takes no word: its bits contradict the conditions on its fields", it.name),
            ));
        }
        let text = it.text.as_ref().map(|text| self.text(place, text, &shape.fields)).transpose()?;
        Ok(Pattern {
            name: it.name.clone(),
            place: place.clone(),
            width: it.width,
            fixed,
            format,
            text,
            limits,
            condition: self.condition(place, &it.condition)?,
            over: Vec::new(),
            group: it.group,
            expansion: None,
            cubes,
        })
    }

    fn condition(&self, place: &Place, expression: &Expression) -> Result<Condition, Error> {
        let all =
            |parts: &[Expression]| parts.iter().map(|p| self.condition(place, p)).collect::<Result<_, _>>();
        Ok(match expression {
            Expression::Always => Condition::Always,
            Expression::Name(name) => match self.features.get(name) {
                Some(feature) => Condition::Feature(*feature),
                None => return Err(Error::new(place, format!("there is no feature {name:?}"))),
            },
            Expression::Not(inner) => Condition::Not(Box::new(self.condition(place, inner)?)),
            Expression::All(parts) => {
                let parts: Vec<Condition> = all(parts)?;
                parts.into_iter().fold(Condition::Always, Condition::and)
            }
            Expression::Any(parts) => Condition::Any(all(parts)?),
        })
    }

    fn expansion(
        &self,
        place: &Place,
        it: &PatternDeclaration,
        patterns: &[Pattern],
        index: usize,
        names: &Names,
        formats: &[Format],
        declared: &[&PatternDeclaration],
    ) -> Result<Option<Expansion>, Error> {
        let Some(expansion) = &it.expansion else { return Ok(None) };
        let pattern = find_pattern(place, names, &expansion.name)?;
        if declared[pattern].expansion.is_some() {
            return Err(Error::new(
                place,
                format!("{:?} stands for another instruction itself", expansion.name),
            ));
        }
        let own = &formats[patterns[index].format];
        let wanted = &formats[patterns[pattern].format].fields;
        for (name, _) in &expansion.arguments {
            if !wanted.iter().any(|field| self.fields[*field].name == *name) {
                return Err(Error::new(place, format!("{:?} has no operand {name:?}", expansion.name)));
            }
        }
        let argument = |field: &usize| {
            let target = &self.fields[*field];
            let given =
                expansion.arguments.iter().find(|(name, _)| *name == target.name).map(|(_, a)| a.clone());
            match given.unwrap_or_else(|| Argument::Field(target.name.clone())) {
                Argument::Constant(value) if target.number.holds((value.into(), value.into())) => {
                    Ok(Source::Constant(value))
                }
                Argument::Constant(value) => {
                    Err(Error::new(place, format!("{value} is no value of operand {:?}", target.name)))
                }
                Argument::Field(name) => {
                    let source = self.field(place, &name).ok().filter(|f| own.fields.contains(f));
                    let source = source.ok_or_else(|| {
                        Error::new(
                            place,
                            format!(
                                "operand {:?} of {:?} has no value: format {:?} has no field {name:?}",
                                target.name, expansion.name, own.name
                            ),
                        )
                    })?;
                    if fits(&self.fields[source], target) {
                        Ok(Source::Field(source))
                    } else {
                        Err(Error::new(
                            place,
                            format!("field {name:?} is of another type than operand {:?}", target.name),
                        ))
                    }
                }
            }
        };
        let arguments = wanted.iter().map(argument).collect::<Result<_, _>>()?;
        Ok(Some(Expansion { pattern, arguments }))
    }
}

/// Operands of a kind go to operands of that kind, numbers to numbers that hold them.
fn fits(from: &Field, to: &Field) -> bool {
    match (from.kind, to.kind) {
        (KindOf::Named(a), KindOf::Named(b)) => a == b,
        (KindOf::Flag, KindOf::Flag) => true,
        (KindOf::Named(_) | KindOf::Flag, _) | (_, KindOf::Named(_) | KindOf::Flag) => false,
        _ => to.number.holds(from.range),
    }
}

fn find_pattern(place: &Place, names: &Names, name: &str) -> Result<usize, Error> {
    names.get(name).copied().ok_or_else(|| Error::new(place, format!("there is no instruction {name:?}")))
}

/// `bit 7` or `bits 8, 7`.
fn bit_list(mask: u64) -> Option<String> {
    let bits: Vec<String> =
        (0..64).rev().filter(|bit| mask >> bit & 1 == 1).map(|bit: u32| bit.to_string()).collect();
    match bits.len() {
        0 => None,
        1 => Some(format!("bit {}", bits[0])),
        _ => Some(format!("bits {}", bits.join(", "))),
    }
}
