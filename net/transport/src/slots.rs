//! The table of open connections.

use crate::connection::{CloseReason, Connection, ConnectionId};
use core::cell::{Cell, RefCell};
use env::Writer;
use env::sync::Notify;
use std::rc::Rc;
use wire::Outbox;

/// One open connection, as its receiver, the flush and the drain task share it.
pub(crate) struct Link<W> {
    /// [`ConnectionId::NONE`] when it is not in the table: it was dialled, or is one too many.
    pub(crate) id: ConnectionId,
    pub(crate) state: RefCell<Connection>,
    pub(crate) outbox: RefCell<Outbox>,
    pub(crate) writer: W,
    /// Something was appended since the last flush.
    pub(crate) touched: Cell<bool>,
    /// A task waits for the socket to take more.
    pub(crate) draining: Cell<bool>,
    /// A paused receiver waits for its window to open.
    pub(crate) room: Notify,
    /// Why this side shut the connection down, until the receiver has seen it.
    pub(crate) ended: Cell<Option<CloseReason>>,
    shut: Cell<bool>,
}

impl<W: Writer> Link<W> {
    pub(crate) fn new(id: ConnectionId, writer: W, state: Connection) -> Self {
        Self::with_outbox(id, writer, state, Outbox::new())
    }

    /// A connection with something to send from the start.
    pub(crate) fn with_outbox(id: ConnectionId, writer: W, state: Connection, outbox: Outbox) -> Self {
        Self {
            id,
            state: RefCell::new(state),
            outbox: RefCell::new(outbox),
            writer,
            touched: Cell::new(false),
            draining: Cell::new(false),
            room: Notify::new(),
            ended: Cell::new(None),
            shut: Cell::new(false),
        }
    }

    /// Shuts the connection down; its receiver sees the end and cleans up. The first reason counts.
    pub(crate) fn end(&self, reason: CloseReason) {
        if !self.shut.replace(true) {
            self.ended.set(Some(reason));
            self.writer.shutdown();
            self.room.notify();
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.shut.get()
    }
}

/// Connections by id. Freed slots are used again, with another generation.
pub(crate) struct Slots<W> {
    slots: Vec<(u32, Option<Rc<Link<W>>>)>,
    free: Vec<u32>,
}

impl<W> Default for Slots<W> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<W> Slots<W> {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, make: impl FnOnce(ConnectionId) -> Link<W>) -> Rc<Link<W>> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("connections are limited to far fewer than 2^32")
        });
        let (generation, entry) = &mut self.slots[slot as usize];
        *generation = generation.wrapping_add(1);
        let link = Rc::new(make(ConnectionId {
            slot,
            generation: *generation,
        }));
        *entry = Some(link.clone());
        link
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<Rc<Link<W>>> {
        let (generation, link) = self.slots.get(id.slot as usize)?;
        if *generation == id.generation {
            link.clone()
        } else {
            None
        }
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) {
        if let Some((generation, link)) = self.slots.get_mut(id.slot as usize)
            && *generation == id.generation
            && link.take().is_some()
        {
            self.free.push(id.slot);
        }
    }

    /// Every open connection, by slot.
    pub(crate) fn all(&self) -> Vec<Rc<Link<W>>> {
        self.slots.iter().filter_map(|(_, link)| link.clone()).collect()
    }
}
