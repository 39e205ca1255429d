//! Lookups that overlap their cache misses.
//!
//! A lookup in a table follows pointers, and each is a miss to main memory that the processor would wait for. A lookup here is
//! an `async fn` that asks for the next line and *pauses* instead; a few of them take turns on one thread, so that one works
//! while the lines of the others arrive. Nothing waits for anything else: a pause is over at the next poll.
//!
//! ```text
//!   lookup 1   ask │         │ work, ask │         │ work …
//!   lookup 2       │ ask     │           │ work …
//!   lookup 3       │     ask │           │
//! ```
//!
//! Source: Psaropoulos et al., "Interleaving with Coroutines", VLDB 2017.

use core::pin::Pin;
use core::task::{Context, Poll, Waker};

/// Lookups that take turns. More would push each other's lines out of the first cache again.
const WIDTH: usize = 12;

/// Gives the others a turn.
pub(crate) struct Pause {
    paused: bool,
}

pub(crate) fn pause() -> Pause {
    Pause { paused: false }
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        if self.paused {
            return Poll::Ready(());
        }
        self.paused = true;
        Poll::Pending
    }
}

/// Runs a lookup that does nothing but pause, by itself.
pub(crate) fn alone<T>(lookup: impl Future<Output = T>) -> T {
    let mut lookup = core::pin::pin!(lookup);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = lookup.as_mut().poll(&mut context) {
            return result;
        }
    }
}

/// Runs lookups that do nothing but pause, some at a time, until all are done.
pub fn interleave<F: Future<Output = ()>>(lookups: impl IntoIterator<Item = F>) {
    let mut lookups = lookups.into_iter();
    let mut running: Vec<_> = lookups
        .by_ref()
        .take(WIDTH)
        .map(|lookup| Box::pin(Some(lookup)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    while !running.is_empty() {
        running.retain_mut(|slot| {
            let lookup = slot.as_mut().as_pin_mut();
            if lookup.is_some_and(|lookup| lookup.poll(&mut context).is_pending()) {
                return true;
            }
            let next = lookups.next();
            let goes_on = next.is_some();
            slot.set(next);
            goes_on
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;

    #[test]
    fn every_lookup_runs_to_its_end_and_they_take_turns() {
        for count in [0, 1, WIDTH - 1, WIDTH, WIDTH + 1, 5 * WIDTH] {
            let steps = RefCell::new(Vec::new());
            interleave((0..count).map(|number| {
                let steps = &steps;
                async move {
                    for step in 0..number % 4 {
                        steps.borrow_mut().push((number, step));
                        pause().await;
                    }
                    steps.borrow_mut().push((number, 9));
                }
            }));
            let steps = steps.into_inner();
            for number in 0..count {
                let mine: Vec<_> = steps
                    .iter()
                    .filter(|(n, _)| *n == number)
                    .map(|(_, s)| *s)
                    .collect();
                let expected: Vec<_> = (0..number % 4).chain([9]).collect();
                assert_eq!(mine, expected, "lookup {number} of {count}");
            }
            if count > 3 {
                let first = |wanted| steps.iter().position(|step| *step == wanted).expect("it ran");
                assert!(
                    first((2, 0)) < first((3, 1)),
                    "3 went on before 2 had begun: {steps:?}"
                );
                assert!(
                    first((3, 0)) < first((2, 1)),
                    "2 went on before 3 had begun: {steps:?}"
                );
            }
        }
    }

    #[test]
    fn alone_ignores_pauses() {
        let lookup = async {
            pause().await;
            pause().await;
            7
        };
        assert_eq!(alone(lookup), 7);
    }
}
