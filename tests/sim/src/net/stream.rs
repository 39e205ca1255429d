//! What happens to the bytes of a connection.
//!
//! ```text
//!   end 0                                  end 1
//!   try_write ─► parcels on their way ───► inbox ─► read
//!       ▲            (one pipe per direction, in order)      │
//!       └──────────── room in the window ◄───────────────────┘
//! ```

use super::state::{Cargo, End, EndId, NetState, Parcel, wake};
use crate::config::{fires, within};
use crate::timeline::{Event, Timeline};
use crate::trace::{Fault, Mark, Trace};
use core::task::Waker;
use std::io::ErrorKind;

impl NetState {
    /// The end that a program holds, unless the connection is gone.
    pub(super) fn end(&mut self, id: u64, end: usize) -> Option<&mut End> {
        self.connections
            .get_mut(&id)
            .map(|connection| &mut connection.ends[end])
    }

    /// The process at an end changes hands within its node; whoever waited is forgotten.
    pub(crate) fn adopt(&mut self, (id, end): EndId) {
        if let Some(end) = self.end(id, end) {
            end.reader = None;
            end.writer = None;
        }
    }

    /// Whether a read gives something; otherwise the waker is called when it may.
    pub(crate) fn is_readable(&mut self, (id, end): EndId, waker: &Waker) -> bool {
        let Some(this) = self.end(id, end) else {
            return true;
        };
        let readable = !this.inbox.is_empty() || this.error.is_some() || this.saw_fin || this.is_closed;
        if !readable {
            this.reader = Some(waker.clone());
        }
        readable
    }

    pub(crate) fn try_read(
        &mut self,
        (id, end): EndId,
        buf: &mut [u8],
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) -> Result<Option<usize>, ErrorKind> {
        let connection = self.connections.get_mut(&id).ok_or(ErrorKind::ConnectionReset)?;
        let [a, b] = &mut connection.ends;
        let (this, peer) = if end == 0 { (a, b) } else { (b, a) };
        let available = this.inbox.len().min(buf.len());
        if available == 0 && !buf.is_empty() {
            return match this.error {
                Some(kind) => Err(kind),
                None if this.saw_fin || this.is_closed => Ok(Some(0)),
                None => Ok(None),
            };
        }
        let count = if this.is_drip {
            available.min(1)
        } else if available > 1 && fires(&mut self.prng, self.config.short_read) {
            trace.fault(Fault::NetShortRead);
            1 + self.prng.index(available)
        } else {
            available
        };
        for (to, from) in buf.iter_mut().zip(this.inbox.drain(..count)) {
            *to = from;
        }
        // The news travels only when it makes a difference that it is late.
        let is_cut = self.cut_until[this.process.node()][peer.process.node()] > now;
        if is_cut || peer.room() == 0 {
            self.push(id, 1 - end, Cargo::Room(count), now, 0, timeline);
        } else {
            peer.unread -= count;
        }
        Ok(Some(count))
    }

    pub(crate) fn try_write(
        &mut self,
        (id, end): EndId,
        bytes: &[u8],
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) -> Result<usize, ErrorKind> {
        let this = self.end(id, end).ok_or(ErrorKind::BrokenPipe)?;
        if let Some(kind) = this.error {
            return Err(kind);
        }
        if this.is_closed {
            return Err(ErrorKind::BrokenPipe);
        }
        let room = this.room().min(bytes.len());
        let count = if room > 1 && fires(&mut self.prng, self.config.short_write) {
            trace.fault(Fault::NetShortWrite);
            1 + self.prng.index(room)
        } else {
            room
        };
        if count == 0 {
            return Ok(0);
        }
        let bytes = &bytes[..count];
        trace.fold(
            Mark::NetSend,
            id * 2 + end as u64,
            u64::from(base::checksum::crc32c(bytes)),
        );
        if let Some(this) = self.end(id, end) {
            this.unread += count;
        }
        self.send(id, 1 - end, Cargo::Bytes(bytes.to_vec()), now, timeline, trace);
        Ok(count)
    }

    /// Whether `try_write` is worth a call.
    pub(crate) fn writable(&mut self, (id, end): EndId, waker: &Waker) -> Option<Result<(), ErrorKind>> {
        let Some(this) = self.end(id, end) else {
            return Some(Err(ErrorKind::BrokenPipe));
        };
        match this.error {
            Some(kind) => Some(Err(kind)),
            None if this.is_closed => Some(Err(ErrorKind::BrokenPipe)),
            None if this.room() > 0 => Some(Ok(())),
            None => {
                this.writer = Some(waker.clone());
                None
            }
        }
    }

    /// A program closes its end. What it has not read makes the close a reset, as TCP does.
    pub(crate) fn close(&mut self, (id, end): EndId, now: u64, timeline: &mut Timeline) {
        let Some(this) = self.end(id, end) else { return };
        this.is_released = true;
        if !this.is_closed {
            this.is_closed = true;
            let cargo = if this.inbox.is_empty() {
                Cargo::Fin
            } else {
                Cargo::Reset
            };
            this.wake_both();
            self.push(id, 1 - end, cargo, now, 0, timeline);
        }
        self.forget_if_over(id);
    }

    /// Both directions end; the connection stays until its halves are dropped.
    pub(crate) fn shutdown(&mut self, (id, end): EndId, now: u64, timeline: &mut Timeline) {
        let Some(this) = self.end(id, end) else { return };
        if !this.is_closed {
            this.is_closed = true;
            this.wake_both();
            self.push(id, 1 - end, Cargo::Fin, now, 0, timeline);
        }
    }

    pub(super) fn forget_if_over(&mut self, id: u64) {
        let ends = self.connections.get(&id).map(|connection| &connection.ends);
        if ends.is_some_and(|ends| ends.iter().all(|end| end.is_released)) {
            self.connections.remove(&id);
        }
    }

    fn send(
        &mut self,
        id: u64,
        to: usize,
        cargo: Cargo,
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) {
        let mut late_ns = 0;
        if fires(&mut self.prng, self.config.loss) {
            trace.fault(Fault::NetLoss);
            late_ns = within(&mut self.prng, &self.config.loss_ns);
        }
        if fires(&mut self.prng, self.config.reset) {
            trace.fault(Fault::NetReset);
            self.push(id, to, Cargo::Reset, now, late_ns, timeline);
            self.push(id, 1 - to, Cargo::Reset, now, 0, timeline);
            return;
        }
        self.push(id, to, cargo, now, late_ns, timeline);
    }

    pub(super) fn push(
        &mut self,
        id: u64,
        to: usize,
        cargo: Cargo,
        now: u64,
        late_ns: u64,
        timeline: &mut Timeline,
    ) {
        let jitter_ns = if self.config.jitter_ns > 0 {
            self.prng.below(self.config.jitter_ns)
        } else {
            0
        };
        let Some(end) = self.end(id, to) else { return };
        let at = (now + end.delay_ns + jitter_ns + late_ns).max(end.last_at);
        end.last_at = at;
        end.parcels.push_back(Parcel { at, cargo });
        if end.due_at.is_none() {
            end.due_at = Some(at);
            timeline.schedule(
                at,
                Event::Net {
                    connection: id,
                    end: to,
                },
            );
        }
    }

    /// The event that a pipe planned.
    pub(crate) fn arrive(
        &mut self,
        id: u64,
        to: usize,
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (from_node, to_node) = (
            connection.ends[1 - to].process.node,
            connection.ends[to].process.node,
        );
        let until = self.cut_until[from_node as usize][to_node as usize];
        let end = &mut connection.ends[to];
        if end.due_at != Some(now) {
            return;
        }
        end.due_at = None;
        if until > now || end.is_silent {
            let stalled_at = *end.stalled_at.get_or_insert(now);
            let patience_at = stalled_at + end.patience_ns;
            // Who only acknowledges does not run out of patience.
            let is_sent = end
                .parcels
                .iter()
                .any(|parcel| !matches!(parcel.cargo, Cargo::Room(_)));
            if is_sent && patience_at <= now {
                return self.time_out(id, to, trace);
            }
            let again_at = match (end.is_silent, is_sent) {
                (true, true) => patience_at,
                (true, false) => return end.parcels.clear(),
                (false, true) => patience_at.min(until),
                (false, false) => until,
            };
            end.due_at = Some(again_at);
            timeline.schedule(
                again_at,
                Event::Net {
                    connection: id,
                    end: to,
                },
            );
            return;
        }
        end.stalled_at = None;
        while let Some(parcel) = end.parcels.pop_front_if(|parcel| parcel.at <= now) {
            trace.fold(Mark::NetDeliver, id * 2 + to as u64, parcel.at);
            match parcel.cargo {
                Cargo::Bytes(_) if end.is_closed => {
                    end.parcels.clear();
                    self.push(id, 1 - to, Cargo::Reset, now, 0, timeline);
                    return;
                }
                Cargo::Bytes(bytes) => {
                    end.inbox.extend(bytes);
                    wake(&mut end.reader);
                }
                Cargo::Room(count) => {
                    end.unread -= count;
                    wake(&mut end.writer);
                }
                Cargo::Fin => {
                    end.saw_fin = true;
                    wake(&mut end.reader);
                }
                Cargo::Reset => {
                    end.parcels.clear();
                    end.break_with(ErrorKind::ConnectionReset);
                }
            }
        }
        if let Some(front) = end.parcels.front() {
            let at = front.at;
            end.due_at = Some(at);
            timeline.schedule(
                at,
                Event::Net {
                    connection: id,
                    end: to,
                },
            );
        }
        self.forget_if_over(id);
    }

    /// What was sent to `to` was never acknowledged: the sender gives up, and the other side does not hear of it.
    fn time_out(&mut self, id: u64, to: usize, trace: &mut Trace) {
        trace.fault(Fault::NetTimeout);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends[to].parcels.clear();
            let sender = &mut connection.ends[1 - to];
            sender.break_with(ErrorKind::TimedOut);
            sender.is_closed = true;
        }
    }
}
