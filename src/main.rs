//! The binary: parses, runs, prints the error, chooses the exit code; nothing else.

fn main() {}
