//! Ctrl-C and the termination signals: a command that can stop cleanly listens for a while; a second signal, or a first one
//! while nobody listens, ends the program. Called by `main`'s signal handler, and by commands with work to save.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Set by the first signal.
static REQUESTED: AtomicBool = AtomicBool::new(false);
/// How many `Listening` there are.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// What the signal handler does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The command finishes its step, saves and returns `Error::Interrupted`.
    Wait,
    ExitNow,
}

/// A signal arrived. The first one waits where a command listens; the second never waits.
pub fn request() -> Answer {
    let first = !REQUESTED.swap(true, Ordering::SeqCst);
    if first && LISTENERS.load(Ordering::SeqCst) > 0 { Answer::Wait } else { Answer::ExitNow }
}

/// Whether a signal has arrived.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// While this lives, the first signal does not end the program: its owner looks at `requested` between steps.
pub struct Listening(());

pub fn listen() -> Listening {
    LISTENERS.fetch_add(1, Ordering::SeqCst);
    Listening(())
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_waits_for_a_listener_only_and_the_second_exits() {
        let outer = listen();
        drop(listen());
        assert!(!requested());
        assert_eq!(request(), Answer::Wait);
        assert!(requested());
        assert_eq!(request(), Answer::ExitNow);
        drop(outer);
        REQUESTED.store(false, Ordering::SeqCst);
        assert_eq!(request(), Answer::ExitNow, "nobody listens");
    }
}
