//! `--chardev`: character devices, for the monitors to come.

use std::collections::BTreeMap;
use std::sync::Arc;

use rhea_block::{BlockError, Result};
use rhea_chardev::{Chardev, FileChardev, NullChardev, StdioChardev};
use rhea_options::Options;

use crate::exports::{refuse_others, required};

/// Kinds that can be opened.
const KINDS: &[&str] = &["file", "stdio", "null"];
/// Kinds that QEMU has and Rhea does not yet.
const ABSENT: &[&str] =
    &["console", "hub", "memory", "mux", "parallel", "pipe", "pty", "ringbuf", "serial", "socket", "udp"];

/// The list that `--chardev help` prints.
pub fn help() -> String {
    let lines: String = KINDS.iter().map(|kind| format!("  {kind}\n")).collect();
    format!("Available chardev backend types: \n{lines}")
}

/// The character devices by their ids.
#[derive(Default)]
pub struct Chardevs {
    by_id: BTreeMap<String, Arc<dyn Chardev>>,
}

impl Chardevs {
    /// Opens what an option describes.
    pub fn add(&mut self, mut options: Options) -> Result<()> {
        let kind = options
            .take::<String>("backend")?
            .ok_or_else(|| BlockError::invalid("chardev: no backend specified"))?;
        if ABSENT.contains(&kind.as_str()) {
            return Err(BlockError::unsupported(format!(
                "character devices of type '{kind}' are not supported"
            )));
        }
        if !KINDS.contains(&kind.as_str()) {
            return Err(BlockError::invalid(format!("'{kind}' is not a valid char driver name")));
        }
        let id =
            options.take::<String>("id")?.ok_or_else(|| BlockError::invalid("chardev: no id specified"))?;
        if self.by_id.contains_key(&id) {
            return Err(BlockError::invalid(format!("Duplicate ID '{id}' for chardev")));
        }
        let failed = |error: &dyn std::fmt::Display| BlockError::new(libc::EIO, error.to_string());
        let device: Arc<dyn Chardev> = match kind.as_str() {
            "null" => Arc::new(NullChardev),
            "file" => {
                let path = required(&mut options, "path")?;
                let append = options.take("append")?.unwrap_or(false);
                let input = options.take::<String>("input-path")?;
                let input = input.as_deref().map(std::path::Path::new);
                Arc::new(
                    FileChardev::open(std::path::Path::new(&path), append, input).map_err(|e| failed(&e))?,
                )
            }
            _ => {
                let signal = options.take("signal")?.unwrap_or(true);
                Arc::new(StdioChardev::open(signal).map_err(|e| failed(&e))?)
            }
        };
        refuse_others(&options)?;
        self.by_id.insert(id, device);
        Ok(())
    }

    /// Whether there is a device of this id.
    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }
}
