//! Tests of the RISC-V guest against other implementations; everything is under `tests/`.
