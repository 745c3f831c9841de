//! `qemu-storage-daemon`: block nodes and exports without a machine.
