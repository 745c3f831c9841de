//! Chains of backing files: how deep they may be, and that openings do not count each other's depth.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rhea_async_io::block_on;
use rhea_block::{OpenFlags, Progress, Registry};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(rhea_block::FileDriver);
    registry.add(rhea_block::RawDriver);
    registry.add(Qcow2Driver);
    registry
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-qcow2-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn create(&self, registry: &Registry, name: &str, backing: Option<&str>) {
        let mut options = String::from("size=65536,cluster_size=4096");
        if let Some(backing) = backing {
            options += &format!(",backing_fmt=qcow2,backing_file={}", self.file(backing));
        }
        let options = Options::parse(&options, None).unwrap();
        block_on(registry.create("qcow2", &self.file(name), options, &Progress::new())).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(registry: &Registry, filename: &str) -> Result<usize, String> {
    let opened = registry.open(filename, Some("qcow2"), OpenFlags::READ_ONLY).await;
    let mut node = opened.map_err(|error| error.to_string())?;
    let mut depth = 0;
    while let Some(backing) = node.backing() {
        node = backing;
        depth += 1;
    }
    Ok(depth)
}

#[test]
fn a_loop_of_backing_files_is_refused() {
    let (registry, scratch) = (registry(), Scratch::new("loop"));
    scratch.create(&registry, "a", Some("b"));
    scratch.create(&registry, "b", Some("a"));
    let error = block_on(open(&registry, &scratch.file("a"))).unwrap_err();
    assert!(error.contains("the chain of backing files is too long"), "{error}");
    // And its depth is forgotten with it.
    scratch.create(&registry, "b", None);
    assert_eq!(block_on(open(&registry, &scratch.file("a"))), Ok(1));
}

/// Lets a future run a few times, each time told at once to go on.
fn run_a_little<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    None
}

#[test]
fn openings_given_up_and_openings_side_by_side_count_for_themselves() {
    let (registry, scratch) = (registry(), Scratch::new("depth"));
    scratch.create(&registry, "0", None);
    for depth in 1..120 {
        scratch.create(&registry, &depth.to_string(), Some(&(depth - 1).to_string()));
    }
    let top = scratch.file("119");
    // Two that add up to more than is allowed.
    let both = block_on(futures_util::future::join(open(&registry, &top), open(&registry, &top)));
    assert_eq!(both, (Ok(119), Ok(119)));
    block_on(async {
        for times in 1..40 {
            let _ = run_a_little(open(&registry, &top), times);
        }
        assert_eq!(open(&registry, &top).await, Ok(119));
    });
}
