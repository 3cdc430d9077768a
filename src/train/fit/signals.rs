//! Ctrl-C and SIGTERM while a run goes on: it stops after the step that is under way, with a checkpoint of it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What the handlers know, once they are set.
static HANDLED: OnceLock<Handled> = OnceLock::new();

struct Handled {
    /// For good: a program with several runs is to end with the one that is under way.
    have_come: Arc<AtomicBool>,
    /// Whether the next signal does what it does by default: no run listens, or one was told to stop already.
    by_default: Arc<AtomicBool>,
}

/// Signals are awaited as long as it lives; a second one ends the program at once.
pub(super) struct Signals(&'static Handled);

impl Signals {
    /// # Errors
    /// Those of `sigaction`.
    pub(super) fn listen() -> io::Result<Self> {
        let handled = match HANDLED.get() {
            Some(handled) => handled,
            None => {
                let handled = Handled { have_come: Arc::default(), by_default: Arc::new(AtomicBool::new(true)) };
                for signal in [SIGINT, SIGTERM] {
                    // In this order: the first one must see what was before.
                    flag::register_conditional_default(signal, Arc::clone(&handled.by_default))?;
                    flag::register(signal, Arc::clone(&handled.by_default))?;
                    flag::register(signal, Arc::clone(&handled.have_come))?;
                }
                HANDLED.get_or_init(|| handled)
            }
        };
        handled.by_default.store(false, Ordering::SeqCst);
        Ok(Self(handled))
    }

    /// Whether one has come, to this run or to one before it.
    pub(super) fn have_come(&self) -> bool {
        self.0.have_come.load(Ordering::SeqCst)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.0.by_default.store(true, Ordering::SeqCst);
    }
}
