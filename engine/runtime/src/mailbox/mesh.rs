//! All rings of a process, and one shard's end of them.

use super::ring::{Receiver, Sender, ring};
use super::wake::{Bell, Demand, Parker};
use base::ShardId;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

/// An eventfd that the shard's reactor sleeps on.
#[derive(Debug)]
pub(crate) struct EventBell(OwnedFd);

impl EventBell {
    pub(crate) fn new() -> std::io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Bell for EventBell {
    fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight readable bytes. The write fails only when the counter is at its end, and then the shard is awake
        // anyway.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

struct Outgoing<M> {
    sender: Sender<M>,
    receiver_parker: Arc<Parker<EventBell>>,
    demand: Arc<Demand>,
    waiting: Vec<Waker>,
}

struct Incoming<M> {
    receiver: Receiver<M>,
    sender_parker: Arc<Parker<EventBell>>,
    demand: Arc<Demand>,
}

impl<M: Send> Outgoing<M> {
    /// Whether there is room; if not, the receiver will unpark this shard when there is.
    fn has_room_or_asks(&mut self) -> bool {
        if self.sender.has_room() {
            return true;
        }
        self.demand.ask();
        self.sender.has_room()
    }
}

impl<M: Send> Incoming<M> {
    /// Gives slots back, and wakes the sender when it waits for them.
    fn release(&mut self) {
        if self.receiver.release() && self.demand.answer() {
            self.sender_parker.unpark();
        }
    }
}

/// One shard's ends before its thread has them.
pub(crate) struct Seat<M> {
    shard: ShardId,
    to: Vec<Option<RefCell<Outgoing<M>>>>,
    from: Vec<Option<RefCell<Incoming<M>>>>,
}

/// The rings of a process with `parkers.len()` shards.
pub(crate) fn mesh<M: Send>(parkers: &[Arc<Parker<EventBell>>], capacity: usize) -> Vec<Seat<M>> {
    let shards = parkers.len();
    let mut seats: Vec<Seat<M>> = (0..shards)
        .map(|shard| Seat {
            shard: ShardId(u16::try_from(shard).expect("the configuration bounds the shards")),
            to: (0..shards).map(|_| None).collect(),
            from: (0..shards).map(|_| None).collect(),
        })
        .collect();
    for a in 0..shards {
        for b in (0..shards).filter(|b| *b != a) {
            let (sender, receiver) = ring(capacity);
            let demand = Arc::new(Demand::new());
            let receiver_parker = parkers[b].clone();
            let sender_parker = parkers[a].clone();
            seats[a].to[b] = Some(RefCell::new(Outgoing {
                sender,
                receiver_parker,
                demand: demand.clone(),
                waiting: Vec::new(),
            }));
            seats[b].from[a] = Some(RefCell::new(Incoming {
                receiver,
                sender_parker,
                demand,
            }));
        }
    }
    seats
}

/// What a reactor asks before it parks.
pub(crate) trait Inputs {
    /// Wakes the tasks that have something to do now, and says whether there were any.
    fn look(&self) -> bool;
}

/// One shard's end of all rings to and from the other shards.
pub struct RingMailbox<M>(Rc<Inner<M>>);

struct Inner<M> {
    seat: Seat<M>,
    /// Where the next [`env::Mailbox::try_receive`] starts, so that no ring starves another.
    turn: Cell<usize>,
    /// Rings with staged messages.
    staged: RefCell<Vec<u16>>,
    reading: RefCell<Option<Waker>>,
}

impl<M: Send + 'static> RingMailbox<M> {
    pub(crate) fn new(seat: Seat<M>) -> Self {
        let shards = seat.to.len();
        Self(Rc::new(Inner {
            seat,
            turn: Cell::new(0),
            staged: RefCell::new(Vec::with_capacity(shards)),
            reading: RefCell::new(None),
        }))
    }

    pub(crate) fn inputs(&self) -> Rc<dyn Inputs> {
        self.0.clone()
    }
}

impl<M: Send> Inner<M> {
    fn outgoing(&self, to: ShardId) -> &RefCell<Outgoing<M>> {
        let shard = self.seat.shard;
        let slot = self.seat.to.get(usize::from(to.0)).and_then(Option::as_ref);
        slot.unwrap_or_else(|| panic!("{shard:?} has no ring to {to:?}"))
    }

    fn has_message(&self) -> bool {
        self.seat
            .from
            .iter()
            .flatten()
            .any(|incoming| incoming.borrow_mut().receiver.has_message())
    }
}

impl<M: Send + 'static> Inputs for Inner<M> {
    fn look(&self) -> bool {
        let mut woke = false;
        for incoming in self.seat.from.iter().flatten() {
            incoming.borrow_mut().release();
        }
        for outgoing in self.seat.to.iter().flatten() {
            let mut outgoing = outgoing.borrow_mut();
            // Others may have used up the room that this one was promised: then it asks again.
            if !outgoing.waiting.is_empty() && outgoing.has_room_or_asks() {
                base::sometimes!("mailbox: a full ring got room");
                woke = true;
                outgoing.waiting.drain(..).for_each(Waker::wake);
            }
        }
        if self.reading.borrow().is_some()
            && self.has_message()
            && let Some(waker) = self.reading.take()
        {
            woke = true;
            waker.wake();
        }
        woke
    }
}

impl<M: Send + 'static> env::Mailbox<M> for RingMailbox<M> {
    fn shard(&self) -> ShardId {
        self.0.seat.shard
    }

    fn shards(&self) -> u16 {
        u16::try_from(self.0.seat.to.len()).expect("the configuration bounds the shards")
    }

    fn try_send(&self, to: ShardId, message: M) -> Result<(), M> {
        let mut outgoing = self.0.outgoing(to).borrow_mut();
        match outgoing.sender.stage(message) {
            Ok(()) => {
                drop(outgoing);
                let mut staged = self.0.staged.borrow_mut();
                if !staged.contains(&to.0) {
                    staged.push(to.0);
                }
                Ok(())
            }
            Err(message) => {
                base::sometimes!("mailbox: ring full");
                if outgoing.sender.publish() {
                    outgoing.receiver_parker.unpark();
                }
                Err(message)
            }
        }
    }

    fn flush(&self) {
        for to in self.0.staged.borrow_mut().drain(..) {
            let mut outgoing = self.0.outgoing(ShardId(to)).borrow_mut();
            if outgoing.sender.publish() {
                outgoing.receiver_parker.unpark();
            }
        }
    }

    fn try_receive(&self) -> Option<(ShardId, M)> {
        let rings = self.0.seat.from.len();
        let first = self.0.turn.get();
        for step in 0..rings {
            let at = (first + step) % rings;
            let Some(incoming) = &self.0.seat.from[at] else {
                continue;
            };
            let mut incoming = incoming.borrow_mut();
            let Some(message) = incoming.receiver.receive() else {
                continue;
            };
            if incoming.receiver.release_due() {
                incoming.release();
            }
            self.0.turn.set((at + 1) % rings);
            let from = ShardId(u16::try_from(at).expect("the configuration bounds the shards"));
            return Some((from, message));
        }
        None
    }

    fn readable(&self) -> impl Future<Output = ()> {
        poll_fn(|context| {
            if self.0.has_message() {
                return Poll::Ready(());
            }
            self.0.reading.replace(Some(context.waker().clone()));
            Poll::Pending
        })
    }

    fn writable(&self, to: ShardId) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            let mut outgoing = self.0.outgoing(to).borrow_mut();
            if outgoing.has_room_or_asks() {
                return Poll::Ready(());
            }
            if !outgoing
                .waiting
                .iter()
                .any(|waker| waker.will_wake(context.waker()))
            {
                outgoing.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}
