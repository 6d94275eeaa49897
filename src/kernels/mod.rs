//! The builders: check shapes, append ops to a recording, push the rule on the tape.
