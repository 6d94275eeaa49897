//! The autograd tape: rules return contributions, only the tape accumulates.
