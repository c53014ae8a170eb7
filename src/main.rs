//! The paquebot program.

fn main() {}
