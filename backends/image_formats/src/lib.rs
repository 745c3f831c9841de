//! The smaller image formats: vdi, vpc, qed, parallels, qcow (version 1), and read-only bochs, cloop and dmg.
