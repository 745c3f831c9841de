//! Keeping other processes out of an image in use, in agreement with QEMU.
//!
//! Who needs a permission holds a shared lock on byte 100 + its bit; who does not let others have it, on byte 200 + its
//! bit. Both are shared locks, so that any number can hold them; conflicts are found by asking whether others hold the
//! opposite byte. Locks are taken before the question is asked: of two that come at the same time, at least one sees the
//! other.

use std::ops::Range;

use rhea_async_io::File;

use crate::permission::Permissions;
use crate::{BlockError, Result};

/// The first byte of locks for what is needed.
const NEEDED: u64 = 100;
/// The first byte of locks for what is not shared.
const UNSHARED: u64 = 200;

/// What the locks on a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Locks {
    pub needed: Permissions,
    pub unshared: Permissions,
}

fn byte(base: u64, permission: Permissions) -> Range<u64> {
    let at = base + u64::from(permission.bits().trailing_zeros());
    at..at + 1
}

impl Locks {
    pub(super) const NONE: Self = Self { needed: Permissions::empty(), unshared: Permissions::empty() };

    pub(super) fn new(needed: Permissions, shared: Permissions) -> Self {
        Self { needed, unshared: Permissions::all() - shared }
    }

    fn without(self, other: Self) -> Self {
        Self { needed: self.needed - other.needed, unshared: self.unshared - other.unshared }
    }

    fn bytes(self) -> impl Iterator<Item = Range<u64>> {
        let needed = self.needed.iter().map(|p| byte(NEEDED, p));
        needed.chain(self.unshared.iter().map(|p| byte(UNSHARED, p)))
    }

    /// Takes these locks without asking what others hold.
    pub(super) fn take(self, file: &File, filename: &str) -> Result<()> {
        for bytes in self.bytes() {
            if let Err(error) = file.lock_shared(bytes.clone()) {
                self.give_back(file);
                return Err(in_use(
                    BlockError::from(error).context(format!("Failed to lock byte {}", bytes.start)),
                    filename,
                ));
            }
        }
        Ok(())
    }

    /// Gives these locks back.
    pub(super) fn give_back(self, file: &File) {
        for bytes in self.bytes() {
            // Nothing better can be done about a failure than to close the file, which comes sooner or later.
            let _ = file.unlock(bytes);
        }
    }

    /// Fails if others hold what these do not go together with.
    fn check(self, file: &File, filename: &str) -> Result<()> {
        let conflict = |what: &str, permission: Permissions| {
            let message = format!("Failed to get {what}\"{}\" lock", permission.names());
            Err(in_use(BlockError::new(libc::EAGAIN, message), filename))
        };
        for permission in self.needed.iter() {
            if file.is_locked_by_others(byte(UNSHARED, permission))? {
                return conflict("", permission);
            }
        }
        for permission in self.unshared.iter() {
            if file.is_locked_by_others(byte(NEEDED, permission))? {
                return conflict("shared ", permission);
            }
        }
        Ok(())
    }

    /// Changes the locks held from `self` to `wanted`, or fails and changes nothing.
    pub(super) fn change(self, wanted: Self, file: &File, filename: &str) -> Result<()> {
        let new = wanted.without(self);
        new.take(file, filename)?;
        if let Err(error) = new.check(file, filename) {
            new.give_back(file);
            return Err(error);
        }
        self.without(wanted).give_back(file);
        Ok(())
    }
}

fn in_use(error: BlockError, filename: &str) -> BlockError {
    error.with_hint(format!("Is another process using the image [{filename}]?"))
}
