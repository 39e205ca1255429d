//! Parts of one transaction on their way, polled by whoever waits for them: no task for each, and none of them outlives who has asked.

use super::part::Part;
use super::pool::Pool;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;
use txn::driver::Ticket;

type Flight = Pin<Box<dyn Future<Output = Option<(Ticket, Part)>> + Send>>;

/// A few at a time: each is polled when one of them is woken.
#[derive(Default)]
pub(crate) struct Flights(Vec<Flight>);

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flights").field(&self.0.len()).finish()
    }
}

impl Flights {
    /// Sends a part.
    pub(crate) fn send(&mut self, pool: &Arc<Pool>, ticket: Ticket, part: txn::Batch) {
        let pool = pool.clone();
        self.0
            .push(Box::pin(async move { Some((ticket, pool.part(&part).await)) }));
    }

    /// Looks the ranges up again.
    pub(crate) fn look(&mut self, pool: &Arc<Pool>) {
        let pool = pool.clone();
        self.0.push(Box::pin(async move {
            pool.look_again().await;
            None
        }));
    }

    /// Adds to `came` what became of those that are there; ready when any is.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, came: &mut Vec<(Ticket, Part)>) -> Poll<()> {
        let before = self.0.len();
        self.0.retain_mut(|flight| match flight.as_mut().poll(context) {
            Poll::Ready(part) => {
                came.extend(part);
                false
            }
            Poll::Pending => true,
        });
        if self.0.len() < before {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
