use super::*;
use proptest::prelude::*;

fn sample() -> Node {
    let mut root = Node::new("");
    root.cell("#address-cells", 2).text("compatible", "x,board").flag("ranges");
    let mut soc = Node::new("soc");
    soc.push({
        let mut uart = Node::new("serial@10000000");
        uart.reg([(0x1000_0000, 0x100)]).texts("compatible", ["ns16550a", "ns16550"]);
        uart
    });
    root.push(soc);
    root
}

#[test]
fn a_tree_comes_back_from_its_blob() {
    let tree = sample();
    let blob = tree.to_blob().unwrap();
    assert_eq!(Node::from_blob(&blob).unwrap(), tree);
    assert_eq!(reservations(&blob).unwrap(), []);
    let uart = tree.find("/soc/serial@10000000").unwrap();
    assert_eq!(uart.get("compatible"), Some(&b"ns16550a\0ns16550\0"[..]));
    assert_eq!(uart.get("reg"), Some(&[0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..]));
    assert!(tree.find("/soc/nothing").is_none());
}

#[test]
fn a_property_is_replaced_and_a_node_found_again() {
    let mut tree = sample();
    tree.child("chosen").text("bootargs", "a");
    tree.child("chosen").text("bootargs", "b");
    assert_eq!(tree.children.iter().filter(|child| child.name == "chosen").count(), 1);
    assert_eq!(tree.find("/chosen").unwrap().properties, [("bootargs".to_owned(), b"b\0".to_vec())]);
}

#[test]
fn a_blob_cut_anywhere_is_refused() {
    let blob = sample().to_blob().unwrap();
    for len in 0..blob.len() {
        assert!(Node::from_blob(&blob[..len]).is_err(), "{len} bytes");
    }
}

/// A blob whose structure block is `structure`, with no strings and no reservations.
fn raw(structure: &[u8]) -> Vec<u8> {
    let total = 56 + structure.len() as u32;
    let header = [0xd00d_feed, total, 56, total, 40, 17, 16, 0, 0, structure.len() as u32];
    let mut blob: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
    blob.extend([0; 16]);
    blob.extend_from_slice(structure);
    blob
}

#[test]
fn a_bottomless_tree_is_refused() {
    let nest = |depth: usize| {
        let mut structure = [0, 0, 0, 1, b'n', 0, 0, 0].repeat(depth);
        structure.extend([0, 0, 0, 2].repeat(depth));
        structure.extend([0, 0, 0, 9]);
        raw(&structure)
    };
    assert!(Node::from_blob(&nest(DEPTH_MAX)).is_ok());
    assert_eq!(Node::from_blob(&nest(DEPTH_MAX + 1)), Err(DeviceTreeError::Depth));
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(at in 0usize..400, value in any::<u32>()) {
        let mut blob = sample().to_blob().unwrap();
        let at = at.min(blob.len() - 4) & !3;
        blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
        let _ = Node::from_blob(&blob);
        let _ = reservations(&blob);
    }
}
