//! The CPU twins: each kernel in f64, and the interpreter that runs a recording on them.
