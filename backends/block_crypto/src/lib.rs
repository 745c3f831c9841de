//! Encryption of disks: LUKS, and the old AES of qcow images.
