//! A block of lines above the prompt that is painted again in place.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Prints text above the prompt.
pub(crate) type Printer = Box<dyn FnMut(String) + Send>;

#[derive(Default)]
struct Inner {
    printer: Option<Printer>,
    /// How the terminal was before a line was read.
    terminal: Option<Termios>,
    /// A line is being typed.
    prompted: bool,
    /// Lines of the block that stand right above the prompt.
    lines: usize,
}

/// Where the block is painted, if a person looks.
#[derive(Default)]
pub(crate) struct Live(Mutex<Inner>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the block is painted by `printer`.
    pub(crate) fn attach(&self, printer: Printer) {
        let mut inner = self.lock();
        inner.printer = Some(printer);
        inner.terminal = tcgetattr(std::io::stdin()).ok();
    }

    /// The process ends while a line is being typed: the terminal is as it was before.
    pub(crate) fn give_back(&self) {
        let mut inner = self.lock();
        if let Some(terminal) = inner.terminal.take().filter(|_| inner.prompted) {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &terminal);
        }
        inner.prompted = false;
    }

    /// A prompt is shown: other things may have been printed since the last one.
    pub(crate) fn begin(&self) {
        let mut inner = self.lock();
        inner.prompted = true;
        inner.lines = 0;
    }

    /// The prompt is gone: what is printed now belongs to a command.
    pub(crate) fn end(&self) {
        self.lock().prompted = false;
    }

    /// Paints `block` in place of the last one.
    pub(crate) fn paint(&self, block: &str) {
        let mut inner = self.lock();
        if !inner.prompted {
            return;
        }
        let mut text = String::new();
        if inner.lines > 0 {
            // Up to where the last one began, and everything below it away.
            let _ = write!(text, "\x1b[{}A\x1b[J", inner.lines);
        }
        let _ = writeln!(text, "{block}");
        inner.lines = block.lines().count();
        if let Some(printer) = &mut inner.printer {
            printer(text);
        }
    }
}
