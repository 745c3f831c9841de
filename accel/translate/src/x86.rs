//! x86 vCPUs (in progress).
