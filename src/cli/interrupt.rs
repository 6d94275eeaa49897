//! Ctrl-C and the termination signals: a command that can stop cleanly asks for a flag; a second signal ends the program.
//! Called by `main`'s signal handler, and by commands with work to save.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first signal.
static REQUESTED: AtomicBool = AtomicBool::new(false);
/// Whether the running command looks at `REQUESTED`.
static GRACEFUL: AtomicBool = AtomicBool::new(false);

/// What the signal handler does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The command finishes its step, saves and returns `Error::Interrupted`.
    Wait,
    ExitNow,
}

/// A signal arrived. The first one waits where the command listens; the second never waits.
pub fn request() -> Answer {
    let first = !REQUESTED.swap(true, Ordering::SeqCst);
    if first && GRACEFUL.load(Ordering::SeqCst) { Answer::Wait } else { Answer::ExitNow }
}

/// The flag to look at between steps; from here on the first signal no longer ends the program.
pub fn flag() -> &'static AtomicBool {
    GRACEFUL.store(true, Ordering::SeqCst);
    &REQUESTED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_waits_and_the_second_exits() {
        let flag = flag();
        assert!(!flag.load(Ordering::SeqCst));
        assert_eq!(request(), Answer::Wait);
        assert!(flag.load(Ordering::SeqCst));
        assert_eq!(request(), Answer::ExitNow);
    }
}
