//! Fields and the conditions on them, each by itself.

use std::collections::HashMap;

use crate::cube::{Cube, subtract};
use crate::declaration::{Clause, FieldDeclaration, Slice, Step, Test};
use crate::error::{Error, Place};
use crate::table::{Compared, Field, KindOf, Limit, Number, bits_of, ones};

/// Kinds by name.
pub(crate) type KindNames = HashMap<String, KindOf>;

/// Bits of a field whose values can be tried one by one.
const MAX_TRIED: u32 = 12;

/// Bits of fields that can be compared for being the same: each value becomes a cube.
const MAX_COMPARED: usize = 8;

/// Checks a field; its limits are left to be filled in.
pub(crate) fn field(place: &Place, it: &FieldDeclaration, kinds: &KindNames) -> Result<Field, Error> {
    let kind = match &it.kind {
        None => KindOf::Decimal,
        Some(name) => {
            *kinds.get(name).ok_or_else(|| Error::new(place, format!("there is no kind {name:?}")))?
        }
    };
    let mask = mask(place, it)?;
    let bits = bits_of(&it.slices);
    if bits == 0 || bits > 64 || (bits == 64 && !it.steps.is_empty()) {
        return Err(Error::new(place, format!("field {:?} has {bits} bits", it.name)));
    }
    let range = range(place, it, bits)?;
    let number = Number::for_range(range.0, range.1);
    if !number.holds(range) {
        return Err(Error::new(place, format!("field {:?} has values beyond 64 bits", it.name)));
    }
    if kind == KindOf::Flag && range != (0, 1) {
        return Err(Error::new(place, format!("field {:?} is a flag, but not one bit", it.name)));
    }
    Ok(Field {
        name: it.name.clone(),
        place: place.clone(),
        width: it.width,
        kind,
        signed: it.signed,
        slices: it.slices.clone(),
        steps: it.steps.clone(),
        range,
        number,
        mask,
        limits: Vec::new(),
    })
}

fn mask(place: &Place, it: &FieldDeclaration) -> Result<u64, Error> {
    let mut mask = 0u64;
    for slice in &it.slices {
        let Slice::Bits { high, low } = *slice else { continue };
        if high >= it.width {
            let message =
                format!("field {:?} reads bit {high}, the word ends with bit {}", it.name, it.width - 1);
            return Err(Error::new(place, message));
        }
        let bits = ones(high - low + 1) << low;
        if mask & bits != 0 {
            return Err(Error::new(
                place,
                format!("field {:?} reads bits {high}:{low} twice in part", it.name),
            ));
        }
        mask |= bits;
    }
    Ok(mask)
}

/// The smallest and the largest value.
fn range(place: &Place, it: &FieldDeclaration, bits: u32) -> Result<(i128, i128), Error> {
    let (mut low, mut high) =
        if it.signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, ones(bits).into()) };
    for step in &it.steps {
        (low, high) = match step {
            Step::ShiftLeft(count) if *count < 32 => (low << count, high << count),
            Step::ShiftLeft(count) => {
                return Err(Error::new(place, format!("a shift by {count} is too far")));
            }
            Step::Add(number) => (low + i128::from(*number), high + i128::from(*number)),
            Step::From(number) => (i128::from(*number) - high, i128::from(*number) - low),
            Step::Map(list) => {
                if low < 0 || high >= list.len() as i128 {
                    let message =
                        format!("the list has {} values, but is asked for {low} to {high}", list.len());
                    return Err(Error::new(place, message));
                }
                let values = list.iter().map(|value| i128::from(*value));
                (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
            }
        };
        if low.abs() > 1 << 70 || high.abs() > 1 << 70 {
            return Err(Error::new(place, format!("field {:?} has values beyond 64 bits", it.name)));
        }
    }
    Ok((low, high))
}

/// Resolves a clause and finds the words where it holds.
pub(crate) fn limit(
    place: &Place,
    clause: &Clause,
    fields: &[Field],
    find: &dyn Fn(&str) -> Result<usize, Error>,
) -> Result<Limit, Error> {
    let mut limit = Limit { tests: Vec::new(), cubes: Vec::new(), mask: 0 };
    for atom in clause {
        let index = find(&atom.field)?;
        let field = &fields[index];
        limit.mask |= field.mask;
        let (test, cubes) = match &atom.test {
            Test::In(list) => (Compared::In(index, list.clone()), words_with(place, field, list)?),
            Test::NotIn(list) => {
                let inside = words_with(place, field, list)?;
                let outside = subtract(&[Cube::ALL], &inside);
                let outside =
                    outside.ok_or_else(|| Error::new(place, "the list of excluded values is too long"))?;
                (Compared::NotIn(index, list.clone()), outside)
            }
            Test::Same(name) | Test::Differs(name) => {
                let other = find(name)?;
                limit.mask |= fields[other].mask;
                let pairs = paired(place, field, &fields[other])?;
                if matches!(atom.test, Test::Same(_)) {
                    (Compared::Same(index, other), same(&pairs))
                } else {
                    (Compared::Differs(index, other), differing(&pairs))
                }
            }
        };
        limit.tests.push(test);
        limit.cubes.extend(cubes);
    }
    Ok(limit)
}

/// The words in which a field has one of the values.
fn words_with(place: &Place, field: &Field, list: &[i64]) -> Result<Vec<Cube>, Error> {
    if let Some(value) =
        list.iter().find(|value| !(field.range.0..=field.range.1).contains(&i128::from(**value)))
    {
        let (low, high) = field.range;
        return Err(Error::new(
            place,
            format!("field {:?} goes from {low} to {high} and is never {value}", field.name),
        ));
    }
    let positions = field.positions();
    if positions.len() as u32 > MAX_TRIED {
        return Err(Error::new(
            place,
            format!("field {:?} has too many bits to be compared with a list", field.name),
        ));
    }
    let word = |raw: u64| {
        let bits = positions.iter().rev().enumerate();
        bits.fold(0, |word, (at, position)| word | (raw >> at & 1) << position)
    };
    let words = (0..1u64 << positions.len()).map(word);
    let wanted = words.filter(|word| list.iter().any(|value| field.value(*word) == i128::from(*value)));
    Ok(wanted.map(|value| Cube { mask: field.mask, value }).collect())
}

/// The bits of two fields that can be compared bit by bit.
fn paired(place: &Place, a: &Field, b: &Field) -> Result<Vec<(u32, u32)>, Error> {
    let (of_a, of_b) = (a.positions(), b.positions());
    let whole = of_a.len() as u32 == a.bits() && of_b.len() as u32 == b.bits();
    let alike = whole && of_a.len() == of_b.len() && a.steps == b.steps && a.signed == b.signed;
    if !alike || of_a.len() > MAX_COMPARED || a.mask & b.mask != 0 {
        return Err(Error::new(place, format!("fields {:?} and {:?} cannot be compared", a.name, b.name)));
    }
    Ok(of_a.into_iter().zip(of_b).collect())
}

fn same(pairs: &[(u32, u32)]) -> Vec<Cube> {
    let cube = |value: u64| {
        pairs.iter().enumerate().fold(Cube::ALL, |cube, (at, (a, b))| {
            let bits = 1u64 << a | 1 << b;
            Cube { mask: cube.mask | bits, value: cube.value | if value >> at & 1 == 1 { bits } else { 0 } }
        })
    };
    (0..1 << pairs.len()).map(cube).collect()
}

fn differing(pairs: &[(u32, u32)]) -> Vec<Cube> {
    let cubes = pairs.iter().map(|(a, b)| {
        let (a, b) = (1u64 << a, 1u64 << b);
        [Cube { mask: a | b, value: a }, Cube { mask: a | b, value: b }]
    });
    cubes.flatten().collect()
}
