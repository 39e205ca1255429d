//! Where a request goes: to a slot of this shard, over a ring to another, and its reply back.

use crate::local::Local;
use crate::message::{Answer, Ask, Origin, OwnedRequest, RawRequest, ShardMessage};
use crate::neighbours::PREFETCH;
use crate::range_map::{RangeEntry, RangeMap};
use crate::refusal::Refusal;
use crate::state::{Message, Route, Slot, State};
use base::collections::FastSet;
use base::prefetch::prefetch_value;
use base::{RangeId, ShardId, Timestamp};
use env::sync::{Receiver, oneshot};
use env::{Clock, Env, Instant};
use wire::frame::FLAG_MISROUTED;
use wire::reply::ErrorReply;
use wire::{Code, Frame, Message as WireMessage, decode_request};

/// A request that has been forwarded this often meets maps that contradict each other: the client tries again.
const HOPS_MAX: u8 = 16;

impl<E: Env, B> State<E, B> {
    /// The monotonic and the wall clock as of this loop turn.
    pub(crate) fn clock(&mut self) -> (Instant, u64) {
        let env = &self.env;
        *self
            .turn_clock
            .get_or_insert_with(|| (env.clock().now(), env.clock().wall_ns()))
    }

    /// Issues a timestamp. Never one above the durable bound: when the wall clock has passed it, only the logical part runs
    /// until the next bound is durable.
    pub(crate) fn now(&mut self) -> Timestamp {
        let (_, wall_ns) = self.clock();
        self.wake_maintenance |= wall_ns >= self.clock_bound_ns;
        self.hlc.now(wall_ns.min(self.clock_bound_ns))
    }

    /// Nothing at or below `ts` is issued any more. It may come from another node, whose clock may be beyond the bound that is durable
    /// here: then the bound follows.
    pub(crate) fn raise_clock(&mut self, ts: Timestamp) {
        self.hlc.raise(ts);
        self.clock_wanted_ns = self.clock_wanted_ns.max(ts.wall_ns);
        self.wake_maintenance |= ts.wall_ns > self.clock_bound_ns;
    }

    /// Whether the clock is beyond the durable bound, where other nodes have brought it, or a start: what is shown at it now would be
    /// forgotten by a crash, and a range without replicas elsewhere is led and written again at once after it. The bound follows.
    pub(crate) fn clock_is_unbound(&mut self) -> bool {
        let last_ns = self.hlc.last().wall_ns;
        if last_ns <= self.clock_bound_ns {
            return false;
        }
        base::sometimes!("node: a read waits for a bound that the clock has passed");
        if last_ns > self.clock_wanted_ns {
            self.clock_wanted_ns = last_ns;
            self.wake_maintenance = true;
        }
        true
    }

    /// Answers a request of any shard's connection.
    pub(crate) fn reply<M: WireMessage>(&mut self, origin: Origin, message: &M) {
        if origin.shard == self.me {
            self.transport.send(origin.connection, origin.request, message);
            return;
        }
        let outbox = &mut self.reply_outbox;
        if outbox
            .push_flagged(origin.request, FLAG_MISROUTED, message)
            .is_err()
        {
            return self.refuse(
                origin,
                &Refusal::fatal(Code::InvalidRequest, "the reply does not fit a frame"),
            );
        }
        let replies = &mut self.replies[usize::from(origin.shard.0)];
        let frame = outbox.bytes();
        replies.index.push((
            origin.connection,
            u32::try_from(frame.len()).expect("a frame is shorter than 4 GiB"),
        ));
        replies.frames.extend_from_slice(frame);
        outbox.clear();
    }

    /// Answers a request with an error.
    pub(crate) fn refuse(&mut self, origin: Origin, refusal: &Refusal) {
        self.counts.refused += 1;
        if let Some(met) = &refusal.met {
            return self.refuse_met(origin, met);
        }
        let error = ErrorReply {
            code: refusal.code.number(),
            retryable: refusal.retry_after_ms.is_some(),
            retry_after_ms: refusal.retry_after_ms.unwrap_or(0),
            range_map_version: self.map.version(),
            range: refusal.range.map(|range| range.0),
            leader: refusal.leader.map(|node| node.0),
            key: refusal.key.as_deref(),
            message: &refusal.message,
        };
        self.reply(origin, &error);
    }

    /// Takes a request that was kept, or came over a ring, as if it had just been received.
    pub(crate) fn on_owned(&mut self, request: &OwnedRequest) {
        let raw = request.as_raw();
        let frame = Frame {
            kind: raw.kind,
            request: raw.origin.request,
            payload: raw.payload,
        };
        match decode_request(&frame) {
            Ok(decoded) => self.on_request(decoded, raw),
            Err(error) => unreachable!("the request was decoded on the shard that received it: {error}"),
        }
    }

    /// Sends a request to the shard that serves its range.
    pub(crate) fn forward(&mut self, shard: ShardId, raw: RawRequest<'_>) {
        let mut request = raw.to_owned();
        request.hops += 1;
        self.counts.forwarded += 1;
        if request.hops > HOPS_MAX {
            base::sometimes!("node: request forwarded in a circle");
            return self.refuse(
                raw.origin,
                &Refusal::retry(Code::WrongShard, 5, "the range is on its way to another shard"),
            );
        }
        self.send(shard, ShardMessage::Request(request));
    }

    /// Sends over the ring to another shard, at the end of the turn.
    pub(crate) fn send(&mut self, to: ShardId, message: Message<E>) {
        assert_ne!(to, self.me, "no ring leads to the shard itself");
        self.ring_out.push((to, message));
    }

    /// Asks another shard; the answer arrives in the receiver.
    pub(crate) fn ask(&mut self, to: ShardId, ask: Ask) -> Receiver<Answer> {
        self.ask_by_ticket(to, ask).1
    }

    /// The same, with the ticket of the question: whoever does not wait for the answer to the end takes it back.
    pub(crate) fn ask_by_ticket(&mut self, to: ShardId, ask: Ask) -> (u64, Receiver<Answer>) {
        let (sender, receiver) = oneshot();
        self.ticket_last += 1;
        self.tickets.insert(self.ticket_last, sender);
        self.send(
            to,
            ShardMessage::Ask {
                ticket: self.ticket_last,
                ask,
            },
        );
        (self.ticket_last, receiver)
    }

    /// The entry of a live slot as it is now.
    pub(crate) fn entry_of(&self, slot: u32) -> RangeEntry {
        let local = self.slots[slot as usize]
            .live()
            .expect("only live ranges have an entry");
        RangeEntry {
            descriptor: local.replica.descriptor().clone(),
            shard: self.me,
            moves: local.moves,
        }
    }

    /// Puts a range into a free slot.
    pub(crate) fn take_slot(&mut self, content: Slot<E>) -> u32 {
        let free = self.slots.iter().position(|slot| matches!(slot, Slot::Free));
        let position = free.unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[position] = content;
        u32::try_from(position).expect("a shard has fewer than 2^32 ranges")
    }

    /// Asks for the memory of the ranges in `slots`, at most [`PREFETCH`] of them, which are worked on next: with many ranges most of it
    /// is far away. In three rounds, as what is found in one says where the next one's is.
    pub(crate) fn prefetch(&self, slots: impl Iterator<Item = u32>) {
        let live = |slot: u32| self.slots.get(slot as usize).and_then(Slot::live);
        let mut locals = [None; PREFETCH];
        for (place, slot) in locals.iter_mut().zip(slots) {
            *place = live(slot).inspect(|local| prefetch_value(*local));
        }
        let locals = || locals.iter().flatten();
        locals().for_each(|local| local.seat.raft.prefetch());
        locals().for_each(|local| local.seat.raft.prefetch_peers());
    }

    /// The slot of a range that is served here.
    pub(crate) fn slot_of(&self, range: RangeId) -> Option<u32> {
        let slot = *self.here.get(&range)?;
        match &self.slots[slot as usize] {
            Slot::Live(local) => local.range == range,
            Slot::Opening(opening, _) => *opening == range,
            Slot::Free | Slot::Stranger(_) => false,
        }
        .then_some(slot)
    }

    /// The live range `range`, if it is here.
    pub(crate) fn local(&self, range: RangeId) -> Option<&Local<E>> {
        let slot = *self.here.get(&range)?;
        self.slots[slot as usize]
            .live()
            .filter(|local| local.range == range)
    }

    /// Forgets ranges that went to another shard, once the map that counts has them there.
    pub(crate) fn forget_departed(&mut self, map: &RangeMap) {
        self.departed.retain(|gone| {
            map.get(gone.descriptor.range)
                .is_none_or(|known| known.age() < gone.age())
        });
    }

    /// Takes over the map that counts, as far as this shard does not know better about its own ranges.
    pub(crate) fn on_map(&mut self, map: &RangeMap) {
        self.forget_departed(map);
        let mut next = map.clone();
        next.set_version(map.version().max(self.map.version()));
        next.merge(self.departed.iter().cloned());
        let own: Vec<_> = (0u32..)
            .zip(&self.slots)
            .filter_map(|(slot, content)| content.live().map(|_| self.entry_of(slot)))
            .collect();
        // A range that is opening here is not in `own`; its entry came with the move and stays.
        let opening = |slot: &Slot<E>| match slot {
            Slot::Opening(range, _) => self.map.get(*range).cloned(),
            Slot::Free | Slot::Live(_) | Slot::Stranger(_) => None,
        };
        let opening: Vec<_> = self.slots.iter().filter_map(opening).collect();
        // What was removed here is told to shard 0 when its files are gone, and it may tell of something else before.
        let here = self.slots.iter().filter_map(|slot| match slot {
            Slot::Live(local) => Some(local.range),
            Slot::Opening(range, _) => Some(*range),
            Slot::Free | Slot::Stranger(_) => None,
        });
        let here: FastSet<RangeId> = here.collect();
        next.merge(own);
        next.merge(opening);
        let stays = |entry: &RangeEntry| {
            entry.shard != self.me || entry.is_hole() || here.contains(&entry.descriptor.range)
        };
        let lost: Vec<RangeId> = next
            .entries()
            .iter()
            .filter(|entry| !stays(entry))
            .map(|entry| entry.descriptor.range)
            .collect();
        next.retain(stays);
        self.map = next;
        self.update_routes();
        for range in lost {
            let is_held = self.injured.is_ending(range) || self.injured.holds(range).is_some();
            if self.me != ShardId(0) && !self.removing.contains_key(&range) && !is_held {
                self.send(ShardId(0), ShardMessage::Removed { range });
            }
        }
    }

    /// Computes the routes anew after a change of map or slots.
    pub(crate) fn update_routes(&mut self) {
        let mut here = core::mem::take(&mut self.here);
        here.clear();
        for (slot, content) in (0u32..).zip(&self.slots) {
            match content {
                Slot::Live(local) => here.insert(local.range, slot),
                Slot::Opening(range, _) => here.insert(*range, slot),
                Slot::Free | Slot::Stranger(_) => None,
            };
        }
        let me = self.me;
        let route = |entry: &RangeEntry| match here.get(&entry.descriptor.range) {
            None if entry.is_hole() => Route::Nowhere,
            Some(&slot) => Route::Here(slot),
            None => {
                assert_ne!(
                    entry.shard, me,
                    "{} is routed here and not here",
                    entry.descriptor.range
                );
                Route::There(entry.shard)
            }
        };
        self.routes = self.map.entries().iter().map(route).collect();
        self.here = here;
    }
}
