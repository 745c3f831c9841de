//! Every finding, with its words.

use crate::tests::findings;

/// A table that is in order, with lines of the test's behind it.
fn with(lines: &str) -> String {
    let before = "feature a\nfeature b\nwidth 16\nfield r = 3:0\nformat f(r) \"@ {r}\"\nformat n() \"@\"\n\
                  one : 000000000000 .... f\nnone : 1111111111111111 n\n";
    findings(&format!("{before}{lines}"))
}

#[test]
fn the_table_before_is_in_order() {
    assert_eq!(with(""), "");
}

#[test]
fn an_overlap_names_both_and_the_bits() {
    assert_eq!(
        with("two : 0000000000xx 0001 n"),
        "t.isa:9: \"two\" and \"one\" (t.isa:7) both take 0000 0000 00.. 0001; say with \"over\" or in a \"first\" group \
         which goes first"
            .replace("00.. 0001", "0000 0001")
    );
    assert_eq!(with("two : 0000000000xx 0001 n over one"), "");
    assert_eq!(with("exclusive a b\ntwo : 000000000000 .... f if a\nthree : 000000000000 .... f if b"), {
        let overlap = |line: usize, name: &str| {
            format!(
                "t.isa:{line}: {name:?} and \"one\" (t.isa:7) both take 0000 0000 0000 ....; say with \"over\" or in a \
                 \"first\" group which goes first"
            )
        };
        format!("{}\n{}", overlap(10, "two"), overlap(11, "three"))
    });
}

#[test]
fn conditions_on_fields_tell_instructions_apart() {
    assert_eq!(with("x1 : 000000000001 .... f where r != 0\nx2 : 000000000001 0000 n"), "");
    assert_eq!(with("x1 : 000000000001 .... f where r in 1 2\nx2 : 000000000001 .... f where r not 1 2"), "");
    assert!(
        with("x1 : 000000000001 .... f where r not 3\nx2 : 000000000001 0000 n")
            .contains("both take 0000 0000 0001 0000")
    );
}

#[test]
fn groups_give_precedence_and_find_what_is_never_reached() {
    assert_eq!(with("first {\nx1 : 000000000001 0000 n\nx2 : 000000000001 .... f\n}"), "");
    assert_eq!(
        with("first {\nx2 : 000000000001 .... f\nx1 : 000000000001 0000 n\n}"),
        "t.isa:11: \"x1\" is never reached: \"x2\" goes first everywhere"
    );
    assert_eq!(with("first {\nx2 : 000000000001 .... f if a\nx1 : 000000000001 0000 n\n}"), "");
    assert_eq!(with("first {"), "t.isa:9: a group opened with \"first {\" is not closed");
    assert_eq!(with("}"), "t.isa:9: there is no group to close");
    assert_eq!(with("first {\nfirst {\n}"), "t.isa:10: groups do not nest");
}

#[test]
fn precedence_goes_one_way_and_has_a_use() {
    let circle = with("x1 : 000000000001 0000 n over x2\nx2 : 000000000001 .... f over x1");
    assert!(circle.contains("t.isa:9: \"x1\" is said to go before itself, by way of others"), "{circle}");
    assert_eq!(
        with("x1 : 000000000001 0000 n over none"),
        "t.isa:9: \"x1\" goes over \"none\", but they share no word"
    );
}

#[test]
fn areas_are_covered_or_free() {
    assert_eq!(with("cover 000000000000xxxx"), "");
    assert_eq!(
        with("cover 00000000000xxxxx"),
        "t.isa:9: nothing takes 0000 0000 0001 .... and nothing reserves it"
    );
    assert_eq!(with("cover 00000000000xxxxx\nreserved 000000000001xxxx"), "");
    assert_eq!(
        with("reserved 00000000000000xx"),
        "t.isa:7: \"one\" takes 0000 0000 0000 00.., which t.isa:9 reserves"
    );
}

#[test]
fn pictures_and_fields_fit_the_word() {
    assert_eq!(with("x : 0101 n"), "t.isa:9: the picture has 4 bits, the word 16");
    assert_eq!(with("field w = 16:3"), "t.isa:9: field \"w\" reads bit 16, the word ends with bit 15");
    assert_eq!(with("field w = 3:5"), "t.isa:9: slice 3:5 is written from the highest bit: 5:3");
    assert_eq!(with("field w = 3:2 2"), "t.isa:9: field \"w\" reads bits 2:2 twice in part");
    assert_eq!(with("field w ="), "t.isa:9: field \"w\" has 0 bits");
    assert_eq!(
        with("x : 00000000001. .... f"),
        "t.isa:9: no field of format \"f\" reads bit 4; write \"x\" if nothing does"
    );
    assert_eq!(
        with("x : 000000000010 xx.. f"),
        "t.isa:9: field \"r\" reads bits 3, 2, which the picture gives as \"x\""
    );
    assert_eq!(
        with("x : 000000000010 0000 f where r != 0"),
        "t.isa:9: \"x\" takes no word: its bits contradict the conditions on its fields"
    );
}

#[test]
fn names_are_declared_once_and_used() {
    assert_eq!(with("feature a"), "t.isa:9: feature \"a\" is already declared at t.isa:1");
    assert_eq!(with("field r = 1"), "t.isa:9: field \"r\" is already declared at t.isa:4");
    assert_eq!(with("format f(r) \"@\""), "t.isa:9: format \"f\" is already declared at t.isa:5");
    assert_eq!(
        with("one : 0000000000110000 n"),
        "t.isa:9: instruction \"one\" is already declared at t.isa:7"
    );
    assert_eq!(with("O.ne : 0000000000110000 n\no_ne : 0000000000110001 n"), {
        "t.isa:10: \"o_ne\" becomes ONe in Rust, as \"O.ne\" does\nt.isa:10: \"o_ne\" becomes o_ne in Rust, as \"O.ne\" does"
    });
    assert_eq!(with("field w = 1"), "t.isa:9: field \"w\" is never used");
    assert_eq!(with("format g(r) \"@\""), "t.isa:9: format \"g\" is never used");
    assert_eq!(with("kind lower custom"), "t.isa:9: kind \"lower\" becomes a type: write it like \"Xreg\"");
}

#[test]
fn names_that_are_not_there_are_named() {
    assert_eq!(with("x : 0000000000110000 m"), "t.isa:9: there is no format \"m\"");
    assert_eq!(with("x : 0000000000110000 n if c"), "t.isa:9: there is no feature \"c\"");
    assert_eq!(with("x : 0000000000110000 n where q != 0"), "t.isa:9: there is no field \"q\"");
    assert_eq!(with("x : 0000000000110000 n over y"), "t.isa:9: there is no instruction \"y\"");
    assert_eq!(with("format g(q) \"@\""), "t.isa:9: there is no field \"q\"");
    assert_eq!(with("field w : Reg = 1"), "t.isa:9: there is no kind \"Reg\"");
    assert_eq!(with("exclusive a c"), "t.isa:9: there is no feature \"c\"");
    assert_eq!(
        with("x : 000000000011 .... f text \"{q}\"\nfield q = 2"),
        "t.isa:9: the text prints \"q\", which the format does not have"
    );
}

#[test]
fn values_fit() {
    assert_eq!(
        with("x : 000000000011 .... f where r != 16"),
        "t.isa:9: field \"r\" goes from 0 to 15 and is never 16"
    );
    assert_eq!(with("x : 000000000011 .... f where r in 1..3\ny : 000000000011 .... f where r not 1..3"), "");
    assert_eq!(with("x : 000000000011 .... f where r in 3..1"), "t.isa:9: \"3..1\" is no range");
    assert_eq!(with("field w = 3:0 map 1 2 3"), "t.isa:9: the list has 3 values, but is asked for 0 to 15");
    assert_eq!(with("field w : flag = 3:0"), "t.isa:9: field \"w\" is a flag, but not one bit");
    assert_eq!(with("field w = 3:0 << 40"), "t.isa:9: a shift by 40 is too far");
    assert_eq!(
        with("kind Reg names a b c\nfield w : Reg = 1:0"),
        "t.isa:10: field \"w\" goes from 0 to 3, but kind \"Reg\" has 3 names"
    );
}

#[test]
fn expansions_have_all_operands_and_their_types() {
    assert_eq!(with("x : 000000000011 .... f as one"), "");
    assert_eq!(
        with("x : 0000000000110000 n as one"),
        "t.isa:9: operand \"r\" of \"one\" has no value: format \"n\" has no field \"r\""
    );
    assert_eq!(with("x : 0000000000110000 n as one(r=16384)"), "t.isa:9: 16384 is no value of operand \"r\"");
    assert_eq!(with("x : 0000000000110000 n as one(r=1, s=2)"), "t.isa:9: \"one\" has no operand \"s\"");
    assert_eq!(
        with("x : 0000000000110000 n as one(r=1)\ny : 0000000000110001 n as x"),
        "t.isa:10: \"x\" stands for another instruction itself"
    );
    assert_eq!(
        with("field w : flag = 0\nformat g(w) \"@ {w}\"\nx : 000000000011000. g as one(r=w)"),
        "t.isa:11: field \"w\" is of another type than operand \"r\""
    );
}

#[test]
fn lines_are_understood_or_refused() {
    assert_eq!(
        with("fild w = 1"),
        "t.isa:9: \"fild\" declares nothing; an instruction needs a \":\" after its name"
    );
    assert_eq!(
        findings("field w = 1"),
        "t.isa:1: the file has not said \"width 16\", \"width 32\" or \"width 64\" yet"
    );
    assert_eq!(with("width 8"), "t.isa:9: a word has 16, 32 or 64 bits, not 8");
    assert_eq!(
        with("x : 0000000000110000 n unless a"),
        "t.isa:9: \"unless\" is none of \"text\", \"where\", \"over\", \"if\" and \"as\", which may follow a format"
    );
    assert_eq!(with("format g(r)"), "t.isa:9: a format needs a text such as \"@ {rd},{rs1}\"");
    assert_eq!(with("format g(r r) \"@\""), "t.isa:9: \",\" is expected, not \"r\"");
    assert_eq!(with("feature c \"x\" y"), "t.isa:9: \"y\" is not expected here");
    assert_eq!(with("field w = 99999999999"), "t.isa:9: \"99999999999\" is no bit's number");
}
