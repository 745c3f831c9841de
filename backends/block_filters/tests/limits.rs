//! Limits that blkdebug is told to have.

use rhea_async_io::{IoVector, block_on};
use rhea_block::{OpenFlags, Registry, WriteFlags};
use rhea_options::Options;

#[test]
fn requests_are_split_at_max_transfer() {
    let path = std::env::temp_dir().join(format!("rhea-filters-limits-{}", std::process::id()));
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let mut registry = Registry::new();
    registry.add(rhea_block::FileDriver);
    registry.add(rhea_block_filters::BlkdebugDriver);
    let written = |limit: &str| {
        // The second 64 KiB cannot be written to.
        let options = format!(
            "driver=blkdebug,image.driver=file,image.filename={}{limit},\
             inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.sector=200",
            path.display()
        );
        let options = Options::parse(&options, None).unwrap();
        block_on(async {
            let node = registry.open_node(options, OpenFlags::UNMAP, false).await.unwrap();
            let data = IoVector::from_slice(&[7; 128 << 10]);
            assert!(node.write(0, &data, WriteFlags::empty()).await.is_err());
            let mut back = IoVector::zeroed(128 << 10);
            node.read(0, &mut back).await.unwrap();
            back.to_vec().iter().filter(|byte| **byte == 7).count()
        })
    };
    assert_eq!(written(""), 0, "one request, which fails as a whole");
    assert_eq!(written(",max-transfer=65536"), 64 << 10, "two, of which the first is carried out");
    std::fs::remove_file(&path).unwrap();
}
