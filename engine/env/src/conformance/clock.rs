//! Time, tasks and randomness.

use crate::sync::oneshot;
use crate::{Clock, Env, TaskClass, Tasks};
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::rc::Rc;

pub(super) async fn monotonic_clock_never_goes_back<E: Env>(env: E) {
    let mut last = env.clock().now();
    for _ in 0..1000 {
        let now = env.clock().now();
        assert!(now >= last, "{now:?} after {last:?}");
        last = now;
    }
    let pause = Duration::from_millis(3);
    env.clock().sleep(pause).await;
    let passed = env.clock().now().since(last);
    assert!(passed >= pause, "slept {passed:?} of {pause:?}");
    assert!(env.clock().wall_ns() > 0);
}

pub(super) async fn sleeps_end_in_the_order_of_their_deadlines<E: Env>(env: E) {
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut ends = Vec::new();
    for wait_ms in [40_u64, 10, 70] {
        let (sender, receiver) = oneshot();
        let (clock, order) = (env.clock().clone(), order.clone());
        env.tasks().spawn(TaskClass::Foreground, async move {
            clock.sleep(Duration::from_millis(wait_ms)).await;
            order.borrow_mut().push(wait_ms);
            sender.send(());
        });
        ends.push(receiver);
    }
    for end in ends {
        end.await.expect("the task ran to its end");
    }
    assert_eq!(*order.borrow(), [10, 40, 70]);
}

pub(super) async fn a_dropped_sleep_is_forgotten<E: Env>(env: E) {
    let start = env.clock().now();
    {
        let mut long = pin!(env.clock().sleep(Duration::from_hours(1)));
        let first = poll_fn(|context| Poll::Ready(long.as_mut().poll(context).is_ready())).await;
        assert!(!first, "an hour has not passed");
    }
    env.clock().sleep(Duration::from_millis(1)).await;
    assert!(env.clock().now().since(start) < Duration::from_hours(1));
}

pub(super) async fn tasks_run_beside_the_one_that_spawned_them<E: Env>(env: E) {
    for class in [TaskClass::Foreground, TaskClass::Background] {
        let (sender, receiver) = oneshot();
        env.tasks().spawn(class, async move { sender.send(7) });
        assert_eq!(receiver.await, Some(7), "{class:?}");
    }
}

pub(super) async fn yielding_lets_every_ready_task_run<E: Env>(env: E) {
    const TASKS: usize = 10;
    let ran = Rc::new(Cell::new(0));
    for _ in 0..TASKS {
        let ran = ran.clone();
        env.tasks()
            .spawn(TaskClass::Foreground, async move { ran.set(ran.get() + 1) });
    }
    assert_eq!(ran.get(), 0, "spawning runs nothing");
    env.tasks().yield_now().await;
    assert_eq!(ran.get(), TASKS, "one yield lets all of them run");
    let _cheap: bool = env.tasks().need_yield();
}

pub(super) async fn generators_differ<E: Env>(env: E) {
    let (mut a, mut b) = (env.prng(), env.prng());
    let drawn = |prng: &mut base::Prng| (0..4).map(|_| prng.next_u64()).collect::<Vec<_>>();
    assert_ne!(drawn(&mut a), drawn(&mut b));
}
