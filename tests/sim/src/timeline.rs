//! What will happen, and when.

use base::Prng;
use core::task::Waker;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A slot of a reused vector; the generation tells its lives apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Something that happens at a moment that is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A timer rings.
    Timer(Key),
    /// A disk operation completes.
    Disk(Key),
    /// The front of a connection's pipe towards one end arrives, or its patience ends.
    Net { connection: u64, end: usize },
    /// A paused node goes on.
    Resume { node: u32 },
}

#[derive(Debug, Default)]
struct Timer {
    generation: u32,
    waker: Option<Waker>,
}

/// Events in the order of their time; ties as drawn, or as scheduled.
#[derive(Debug)]
pub(crate) struct Timeline {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    timers: Vec<Timer>,
    free: Vec<u32>,
    scheduled: u64,
    ties: Option<Prng>,
}

impl Timeline {
    pub(crate) fn new(ties: Option<Prng>) -> Self {
        Self {
            heap: BinaryHeap::new(),
            timers: Vec::new(),
            free: Vec::new(),
            scheduled: 0,
            ties,
        }
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let tie = self.ties.as_mut().map_or(self.scheduled, Prng::next_u64);
        self.heap.push(Reverse((at, tie, event)));
    }

    /// Sets a timer.
    pub(crate) fn timer(&mut self, at: u64, waker: Waker) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.timers.push(Timer::default());
            u32::try_from(self.timers.len() - 1).expect("fewer timers than memory")
        });
        let timer = &mut self.timers[slot as usize];
        timer.waker = Some(waker);
        let key = Key {
            slot,
            generation: timer.generation,
        };
        self.schedule(at, Event::Timer(key));
        key
    }

    /// Whether the timer has not rung; a new waker takes the place of the old one.
    pub(crate) fn is_timer_set(&mut self, key: Key, waker: &Waker) -> bool {
        let timer = &mut self.timers[key.slot as usize];
        let is_set = timer.generation == key.generation;
        if let (true, Some(before)) = (is_set, &mut timer.waker) {
            before.clone_from(waker);
        }
        is_set
    }

    /// Forgets a timer, if it has not rung.
    pub(crate) fn cancel(&mut self, key: Key) -> Option<Waker> {
        let timer = &mut self.timers[key.slot as usize];
        if timer.generation != key.generation {
            return None;
        }
        timer.generation = timer.generation.wrapping_add(1);
        self.free.push(key.slot);
        timer.waker.take()
    }

    /// When the next event happens. Timers that were forgotten are none.
    pub(crate) fn next_at(&mut self) -> Option<u64> {
        while let Some(Reverse((at, _, event))) = self.heap.peek() {
            match event {
                Event::Timer(key) if self.timers[key.slot as usize].generation != key.generation => {
                    self.heap.pop();
                }
                Event::Timer(_) | Event::Disk(_) | Event::Net { .. } | Event::Resume { .. } => {
                    return Some(*at);
                }
            }
        }
        None
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
