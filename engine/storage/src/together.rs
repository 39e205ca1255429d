//! Opening many tablets: what the disk does for one does not wait for what it does for another.

use core::future::poll_fn;
use core::task::Poll;

/// Runs futures, at most `width` at a time, until all are done; their results, in the order of the futures.
pub(crate) async fn together<F: Future>(
    width: usize,
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    let (mut futures, mut results) = (futures.into_iter(), Vec::new());
    let mut running = Vec::new();
    poll_fn(|context| {
        loop {
            while running.len() < width
                && let Some(future) = futures.next()
            {
                running.push((results.len(), Box::pin(future)));
                results.push(None);
            }
            let before = running.len();
            running.retain_mut(|(at, future)| match future.as_mut().poll(context) {
                Poll::Ready(result) => {
                    results[*at] = Some(result);
                    false
                }
                Poll::Pending => true,
            });
            if running.is_empty() && before == 0 {
                return Poll::Ready(());
            }
            // Where something ended there is room for what nobody has polled yet.
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    results
        .into_iter()
        .map(|result| result.expect("all are done"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use core::task::{Context, Waker};

    #[test]
    fn results_come_in_order_and_few_run_at_a_time() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let futures = (0..10u32).map(|number| {
            let (running, most, mut left) = (&running, &most, 3 - number % 2);
            async move {
                running.set(running.get() + 1);
                most.set(most.get().max(running.get()));
                poll_fn(move |_| {
                    left -= 1;
                    if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                running.set(running.get() - 1);
                number
            }
        });
        let mut all = core::pin::pin!(together(3, futures));
        let results = loop {
            if let Poll::Ready(results) = all.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                break results;
            }
        };
        assert_eq!(results, (0..10).collect::<Vec<_>>());
        assert_eq!(most.get(), 3);
    }
}
