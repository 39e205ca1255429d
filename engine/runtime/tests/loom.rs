//! The ring and the two wake-up protocols under every interleaving and reordering that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p corelane-runtime --release --test loom`
#![cfg(loom)]

use corelane_runtime::mailbox::ring::ring;
use corelane_runtime::mailbox::wake::{Bell, Demand, Parker};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// An eventfd as loom knows it: a flag that is set and waited for.
#[derive(Default)]
struct Chime {
    set: Mutex<bool>,
    changed: Condvar,
    rung: AtomicUsize,
}

impl Bell for Chime {
    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        *self.set.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Chime {
    /// Sleeps until the bell rings. loom reports a deadlock when it never does: that is a lost wake-up.
    fn wait(&self) {
        let mut set = self.set.lock().unwrap();
        while !*set {
            set = self.changed.wait(set).unwrap();
        }
        *set = false;
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn messages_cross_once_and_in_order() {
    check(|| {
        let (mut sender, mut receiver) = ring::<u32>(2);
        let other = thread::spawn(move || {
            for message in 0..3 {
                while sender.stage(message).is_err() {
                    sender.publish();
                    thread::yield_now();
                }
            }
            sender.publish();
        });
        for expected in 0..3 {
            let message = loop {
                if let Some(message) = receiver.receive() {
                    break message;
                }
                receiver.release();
                thread::yield_now();
            };
            assert_eq!(message, expected);
        }
        other.join().unwrap();
        assert_eq!(receiver.receive(), None);
    });
}

#[test]
fn what_was_never_received_is_dropped_once() {
    check(|| {
        let counted = Arc::new(());
        let (mut sender, mut receiver) = ring::<Arc<()>>(2);
        let message = counted.clone();
        let other = thread::spawn(move || {
            sender.stage(message.clone()).unwrap();
            sender.publish();
            // Staged and never published: the sender's end sees to it.
            sender.stage(message).unwrap();
        });
        drop(receiver.receive());
        drop(receiver);
        other.join().unwrap();
        assert_eq!(Arc::strong_count(&counted), 1);
    });
}

#[test]
fn no_wake_up_is_lost() {
    check(|| {
        let parker = Arc::new(Parker::new(Chime::default()));
        let (mut sender, mut receiver) = ring::<u32>(2);
        let other = thread::spawn({
            let parker = parker.clone();
            move || {
                for message in 0..2 {
                    sender.stage(message).unwrap();
                    sender.publish();
                    parker.unpark();
                }
            }
        });
        let mut expected = 0;
        while expected < 2 {
            if let Some(message) = receiver.receive() {
                assert_eq!(message, expected);
                expected += 1;
                continue;
            }
            parker.park();
            if !receiver.has_message() {
                parker.bell().wait();
            }
            parker.awake();
        }
        other.join().unwrap();
    });
}

#[test]
fn one_park_costs_at_most_one_ring() {
    check(|| {
        let parker = Arc::new(Parker::new(Chime::default()));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let parker = parker.clone();
                thread::spawn(move || parker.unpark())
            })
            .collect();
        parker.park();
        let rung: usize = senders
            .into_iter()
            .map(|sender| usize::from(sender.join().unwrap()))
            .sum();
        assert!(rung <= 1, "{rung} rings for one park");
        assert_eq!(parker.bell().rung.load(Ordering::Relaxed), rung);
    });
}

#[test]
fn a_starved_sender_is_woken() {
    check(|| {
        let (parker, demand) = (Arc::new(Parker::new(Chime::default())), Arc::new(Demand::new()));
        let (mut sender, mut receiver) = ring::<u32>(1);
        let other = thread::spawn({
            let (parker, demand) = (parker.clone(), demand.clone());
            move || {
                for message in 0..2 {
                    while sender.stage(message).is_err() {
                        demand.ask();
                        if sender.has_room() {
                            continue;
                        }
                        // The driver's last look before it sleeps.
                        parker.park();
                        if !sender.has_room() {
                            parker.bell().wait();
                        }
                        parker.awake();
                    }
                    sender.publish();
                }
            }
        });
        for expected in 0..2 {
            let message = loop {
                if let Some(message) = receiver.receive() {
                    break message;
                }
                thread::yield_now();
            };
            assert_eq!(message, expected);
            if receiver.release() && demand.answer() {
                parker.unpark();
            }
        }
        other.join().unwrap();
    });
}
