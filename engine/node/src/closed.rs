//! Closed timestamps: up to when a range takes no more writes, so that replicas that do not lead can show it.
//!
//! ```text
//!   leader:    clock − lag, under its lease ─► every range that it leads: "nothing at or below follows entry L"
//!                  │ one message per shard and interval: the timestamp, and the ranges whose L is another one than before
//!   follower:      └─► list by range ─► L applied here? ─► reads at or below the timestamp, asking nobody
//! ```
//!
//! A *promise* is a range, an index L and a timestamp T: no entry of the range beyond L has a timestamp at or below T, or ever
//! will. It is true of the range's log as it is committed, whoever leads later, and so it never expires. Why it is true:
//!
//! 1. Whoever promises leads and has applied an entry of its own term, which is committed. So every later leader has that entry,
//!    and what comes after it is of this term or a later one.
//! 2. Of its own term: L is the last entry of its log when it promises, and timestamps that it gives later are above T, for its clock
//!    has issued one above T ([`State::write_ts`] checks it).
//! 3. Of later terms: T is not above the promiser's clock and comes before the end of its lease. A later leader begins above what
//!    its own clock says and twice the clock bound; by then the clock of the one before, which is off by the bound at most, has not been
//!    behind T. A group of one begins above its own clock only: the lag is not less than the bound.
//!
//! A follower needs neither the promiser's term nor to know that it still leads: whoever has applied as far as L has everything at
//! or below T.
//!
//! Nothing is said of ranges whose L is the same as before, and they cost nothing: not even their leases are looked at. For the lease
//! of a range on the list was good when it was put there, by the support of some nodes; when support of a node ends, all
//! groups of that node hear of it, and the list is looked at anew; and until then T stays below the ends of all support that is given.
//!
//! Invariants:
//! - A promise is made after everything that was proposed before has its index.
//! - A list is changed by messages of one series without a gap; otherwise it is void and nothing is closed by it any more.
//! - A range that moves to another shard is promised by its old one no more from the moment at which it leaves; its new one issues
//!   timestamps above all that the old one has issued, and so above what that promised.
//! - After a read was served at a closed timestamp, this replica applies and proposes nothing at or below it: asserted.

use crate::local::Seat;
use crate::message::ShardMessage;
use crate::neighbours::Neighbours;
use crate::state::State;
use base::{Index, RangeId, Timestamp};
use core::mem;
use core::time::Duration;
use env::{Clock, Env, Instant};
use liveness::Peer;
use std::collections::BTreeMap;
use wire::WireError;
use wire::peer::{self, ArchivedClosed, ArchivedClosedStep, CLOSED_RANGES_MAX, ClosedRange, ClosedStep};

/// Ranges on the list of one other shard; more is nonsense.
const LISTED_MAX: usize = 1 << 20;

/// Messages of a series between two looks for ranges that are listed to a shard that has them not: what said so may have been lost.
const LOOKS_FOR_ASTRAY: u64 = 64;
/// Ranges that other shards are told of at one look; the rest comes with the next ones.
const ASTRAY_MAX: usize = 256;

/// Up to when a replica knows its range to be closed, beside what is on the lists now.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// Everything promised up to here is applied.
    ts: Timestamp,
    /// The oldest promise whose entry was not applied when another one took its place on the list.
    waiting: Option<(Index, Timestamp)>,
}

impl Closed {
    /// A promise leaves the list: everything that it is about is applied, or will be.
    fn keep(&mut self, index: Index, ts: Timestamp, applied: Index) {
        self.ts = self.at(applied);
        self.waiting.take_if(|(index, _)| *index <= applied);
        if index <= applied {
            self.ts = self.ts.max(ts);
        } else {
            self.waiting.get_or_insert((index, ts));
        }
    }

    /// As of when everything up to `applied` is applied.
    fn at(&self, applied: Index) -> Timestamp {
        let waiting = self.waiting.filter(|(index, _)| *index <= applied);
        waiting.map_or(self.ts, |(_, ts)| self.ts.max(ts))
    }
}

/// A range that is led here and whose replicas elsewhere hear up to when it is closed.
#[derive(Debug)]
struct Led {
    /// The last entry of its log.
    index: Index,
    /// Where they are, as far as is known; one that is elsewhere hears nothing.
    places: Vec<Peer>,
}

/// What is said to a shard of another node.
#[derive(Debug)]
struct Listener {
    peer: Peer,
    /// `None` when the next message begins one.
    series: Option<Timestamp>,
    /// Of the next message.
    number: u64,
    /// As the other shard has it once it has all of the series.
    listed: BTreeMap<RangeId, Index>,
}

/// What a shard of another node has said.
#[derive(Debug)]
struct Speaker {
    peer: Peer,
    series: Timestamp,
    /// Of the message that came last.
    number: u64,
    /// No message of the series is missing so far.
    is_whole: bool,
    /// All ranges on the list are closed up to here.
    closed: Timestamp,
    listed: BTreeMap<RangeId, Index>,
}

/// Whether a message continues what its sender has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Yes,
    /// It is of an earlier series, and of no use.
    No,
    /// Something is missing before it.
    Gap,
}

/// What a shard promises to others, and others to it.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// What was promised last, of all ranges in `led`.
    closed: Timestamp,
    led: BTreeMap<RangeId, Led>,
    /// Ranges of which something may be different from what `led` says.
    changed: Vec<RangeId>,
    listeners: Vec<Listener>,
    speakers: Vec<Speaker>,
    /// When it is time to promise.
    due: Instant,
}

impl Listener {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            series: None,
            number: 0,
            listed: BTreeMap::new(),
        }
    }

    /// Something may not have arrived.
    fn begin_anew(&mut self) {
        self.series = None;
        self.number = 0;
        self.listed.clear();
    }

    /// Notes that the range is to be listed with `index`, or not at all. The change, if it is one.
    fn list(&mut self, range: RangeId, index: Option<Index>) -> Option<ClosedRange> {
        let before = match index {
            Some(index) => self.listed.insert(range, index),
            None => self.listed.remove(&range),
        };
        (before != index).then(|| ClosedRange {
            range: range.0,
            index: index.unwrap_or(Index::ZERO).0,
        })
    }
}

impl Speaker {
    fn new(peer: Peer, series: Timestamp) -> Self {
        Self {
            peer,
            series,
            number: 0,
            is_whole: true,
            closed: Timestamp::ZERO,
            listed: BTreeMap::new(),
        }
    }

    /// Up to when a range is closed for a replica that has applied as far as `applied`.
    fn closed_of(&self, range: RangeId, applied: Index) -> Timestamp {
        let listed = self.listed.get(&range);
        if listed.is_some_and(|index| *index <= applied) {
            self.closed
        } else {
            Timestamp::ZERO
        }
    }
}

impl Closing {
    /// When [`State::close_timestamps`] has something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let is_idle = self.led.is_empty() && self.changed.is_empty();
        (!is_idle).then_some(self.due)
    }

    /// Takes the next message of a shard. What it said before comes back when it begins a series: promises stay true.
    fn hear(&mut self, peer: Peer, series: Timestamp, number: u64) -> (Follows, Option<Speaker>) {
        let at = self.speakers.iter().position(|speaker| speaker.peer == peer);
        let Some(at) = at else {
            if number > 0 {
                return (Follows::Gap, None);
            }
            self.speakers.push(Speaker::new(peer, series));
            return (Follows::Yes, None);
        };
        let speaker = &mut self.speakers[at];
        if series < speaker.series {
            base::sometimes!("node: a word of a series of closed timestamps that is over");
            return (Follows::No, None);
        }
        if series > speaker.series {
            if number > 0 {
                return (Follows::Gap, None);
            }
            let before = mem::replace(speaker, Speaker::new(peer, series));
            return (Follows::Yes, Some(before));
        }
        speaker.is_whole &= number == speaker.number + 1;
        if !speaker.is_whole {
            return (Follows::Gap, None);
        }
        speaker.number = number;
        (Follows::Yes, None)
    }
}

impl<E: Env, B> State<E, B> {
    /// A timestamp for a write: above everything that was promised to be closed.
    ///
    /// # Panics
    /// When the clock gives an earlier one: what was promised lies at or below what it has issued.
    pub(crate) fn write_ts(&mut self) -> Timestamp {
        let ts = self.now();
        let closed = self
            .neighbours
            .as_ref()
            .map(|neighbours| neighbours.closing.closed);
        assert!(
            closed.is_none_or(|closed| closed < ts),
            "a write at {ts}, and {closed:?} is closed"
        );
        ts
    }

    /// Nothing is written at or below this where this shard leads.
    pub(crate) fn promised_ts(&self) -> Timestamp {
        let neighbours = self.neighbours.as_ref();
        neighbours.map_or(Timestamp::ZERO, |neighbours| neighbours.closing.closed)
    }

    /// The range has gone to another shard, and is closed from there from now on.
    pub(crate) fn stop_closing(&mut self, range: RangeId) {
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.closing.led.remove(&range);
            neighbours.closing.changed.push(range);
        }
    }

    /// Something of the group in `slot` may be different: whether it leads, its log, or its members.
    pub(crate) fn watch_closed(&mut self, slot: u32) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if let Some(local) = self.slots[slot as usize].live_mut()
            && (local.led || local.is_closing)
            && !mem::replace(&mut local.closing_changed, true)
        {
            neighbours.closing.changed.push(local.range);
        }
    }

    /// Up to when the range in `slot` is known to be closed and everything up to there is applied: reads at or below need nobody.
    pub(crate) fn closed_ts(&self, slot: u32) -> Timestamp {
        let Some(local) = self.slots[slot as usize].live() else {
            return Timestamp::ZERO;
        };
        let applied = if base::planted_bug!("node-follower-serves-unapplied") {
            Index(u64::MAX)
        } else {
            local.replica.applied_index()
        };
        let own = local.closed.at(applied);
        let Some(Neighbours { closing, .. }) = self.neighbours.as_deref() else {
            return own;
        };
        let led = closing.led.get(&local.range).filter(|led| led.index <= applied);
        let speakers = closing.speakers.iter();
        speakers
            .map(|speaker| speaker.closed_of(local.range, applied))
            .chain(led.map(|_| closing.closed))
            .fold(own, Timestamp::max)
    }

    /// Says up to when the ranges that are led here are closed, when it is time to.
    pub(crate) fn close_timestamps(&mut self) {
        let now = self.env.clock().now();
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if neighbours.closing.due().is_none_or(|due| now < due) {
            return;
        }
        neighbours.closing.due = now + neighbours.cluster.closed_interval;
        // Everything asked for before has its index, and groups have heard whose support has ended.
        self.close_batch();
        let wall_ns = self.env.clock().wall_ns();
        let Some(closed) = self.closable(wall_ns) else {
            return;
        };
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let mut closing = mem::take(&mut neighbours.closing);
        let changed = mem::take(&mut closing.changed);
        for range in &changed {
            self.look_at_led(&mut closing, *range, wall_ns);
        }
        let series = self.now();
        if let Some(neighbours) = &mut self.neighbours {
            closing.closed = closed;
            neighbours.tell_closed(&mut closing, &changed, series);
            neighbours.closing = closing;
        }
    }

    /// What may be promised now, if it is more than before.
    fn closable(&mut self, wall_ns: u64) -> Option<Timestamp> {
        // Whatever this shard proposes from now on is later.
        let issued = self.now();
        let neighbours = self.neighbours.as_ref()?;
        let lag = u64::try_from(neighbours.cluster.closed_lag.as_nanos()).unwrap_or(u64::MAX);
        let closed = Timestamp::new(wall_ns.saturating_sub(lag), 0).min(issued);
        let ends = neighbours.outlook.support_until();
        let may_close = closed > neighbours.closing.closed && closed.wall_ns < ends;
        base::sometimes!(
            "node: nothing is closed beyond the end of support",
            closed.wall_ns >= ends
        );
        may_close.then_some(closed)
    }

    /// Puts a range on the list of those led here, or takes it off, or notes what is different.
    fn look_at_led(&mut self, closing: &mut Closing, range: RangeId, wall_ns: u64) {
        let slot = self.here.get(&range).copied();
        let slot = slot.filter(|slot| self.slots[*slot as usize].live().is_some());
        let now = slot.and_then(|slot| self.closes(slot, wall_ns));
        if base::planted_bug!("node-closed-survives-leader") && now.is_none() {
            return;
        }
        let index = now.as_ref().map(|led| led.index);
        let is_led = now.is_some();
        let before = match now {
            Some(led) => closing.led.insert(range, led),
            None => closing.led.remove(&range),
        };
        let Some(slot) = slot else {
            return;
        };
        let local = self.live_mut(slot);
        local.closing_changed = false;
        local.is_closing = is_led;
        if let Some(before) = before.filter(|before| Some(before.index) != index) {
            let applied = local.replica.applied_index();
            local.closed.keep(before.index, closing.closed, applied);
        }
    }

    /// The range in `slot` as it is closed, if this replica may promise that.
    fn closes(&mut self, slot: u32, wall_ns: u64) -> Option<Led> {
        self.renew_lease(slot);
        let local = self.slots[slot as usize].live()?;
        let may_promise = !local.is_alone()
            && local.leads()
            && !local.seat.leaving
            && !local.replica.is_frozen()
            && wall_ns < local.lease_ns;
        may_promise.then(|| Led {
            index: if base::planted_bug!("node-closed-ignores-in-flight") {
                local.replica.applied_index()
            } else {
                local.seat.raft.last().index
            },
            places: places(&local.seat),
        })
    }

    /// Takes what another shard says of the ranges that it leads.
    ///
    /// # Errors
    /// [`WireError`] when no node says such a thing.
    pub(crate) fn on_closed(
        &mut self,
        peer: Peer,
        message: &ArchivedClosed<'static>,
        malformed: WireError,
    ) -> Result<(), WireError> {
        let series = message.series.timestamp();
        let Some(neighbours) = &mut self.neighbours else {
            return Err(malformed);
        };
        let (number, ranges, closed) = match &message.step {
            ArchivedClosedStep::Again => {
                let mut listeners = neighbours.closing.listeners.iter_mut();
                let is_it =
                    |listener: &&mut Listener| listener.peer == peer && listener.series == Some(series);
                if let Some(listener) = listeners.find(is_it) {
                    base::sometimes!("node: a series of closed timestamps begins anew");
                    listener.begin_anew();
                }
                return Ok(());
            }
            ArchivedClosedStep::Next {
                number,
                ranges,
                closed,
            } => (number.to_native(), ranges, closed.as_ref()),
        };
        if ranges.len() > CLOSED_RANGES_MAX {
            return Err(malformed);
        }
        let mut listed: Vec<RangeId> = ranges
            .iter()
            .map(|change| RangeId(change.range.to_native()))
            .collect();
        let (follows, before) = neighbours.closing.hear(peer, series, number);
        if follows == Follows::Gap {
            base::sometimes!("node: a closed timestamp is missing");
            let again = peer::Closed {
                series: series.into(),
                step: ClosedStep::Again,
            };
            neighbours.links.send(peer.node, peer.shard, &again);
        }
        if let Some(before) = before {
            for (range, index) in before.listed {
                self.keep_closed(range, index, before.closed);
            }
        }
        if follows != Follows::Yes {
            return Ok(());
        }
        for change in ranges.iter() {
            let (range, index) = (RangeId(change.range.to_native()), Index(change.index.to_native()));
            if range <= RangeId::SYSTEM {
                return Err(malformed);
            }
            let Some(speaker) = self.speaker(peer) else {
                return Err(malformed);
            };
            let before = match index {
                Index::ZERO => speaker.listed.remove(&range),
                index => speaker.listed.insert(range, index),
            };
            let ts = speaker.closed;
            if speaker.listed.len() > LISTED_MAX {
                return Err(malformed);
            }
            if let Some(before) = before {
                self.keep_closed(range, before, ts);
            }
        }
        if number % LOOKS_FOR_ASTRAY == LOOKS_FOR_ASTRAY - 1
            && let Some(speaker) = self.speaker(peer)
        {
            listed.extend(speaker.listed.keys());
        }
        let mut astray = 0;
        for range in listed {
            if astray >= ASTRAY_MAX {
                break;
            }
            astray += usize::from(self.send_after(range));
        }
        // Nobody whose clock is within the bound promises anything beyond this one's.
        let wall_ns = self.env.clock().wall_ns();
        let offset_ns = self
            .neighbours
            .as_ref()
            .map_or(0, |neighbours| neighbours.cluster.liveness.clock_offset_ns_max);
        let closed = closed
            .map(Timestamp::from)
            .filter(|closed| closed.wall_ns <= wall_ns.saturating_add(offset_ns));
        if let (Some(closed), Some(speaker)) = (closed, self.speaker(peer)) {
            if closed < speaker.closed {
                return Err(malformed);
            }
            speaker.closed = closed;
        }
        Ok(())
    }

    /// A leader lists a range here: if its replica is on another shard, that one says so. Whether it is.
    fn send_after(&mut self, range: RangeId) -> bool {
        if self.here.contains_key(&range) {
            return false;
        }
        let entry = self.map.get(range).filter(|entry| !entry.is_hole());
        let shard = entry.map(|entry| entry.shard).filter(|shard| *shard != self.me);
        if let Some(shard) = shard.filter(|shard| self.takes_more(*shard)) {
            base::sometimes!("node: a range was listed as closed to a shard that has it not");
            self.send(shard, ShardMessage::Misdirected(range));
        }
        shard.is_some()
    }

    /// The leader of a range takes its replica to be on another shard than this one, which has it.
    pub(crate) fn on_misdirected(&mut self, range: RangeId) {
        if let Some(&slot) = self.here.get(&range)
            && self.slots[slot as usize].live().is_some_and(|local| !local.led)
        {
            self.say_where(slot);
        }
    }

    fn speaker(&mut self, peer: Peer) -> Option<&mut Speaker> {
        let speakers = &mut self.neighbours.as_mut()?.closing.speakers;
        speakers.iter_mut().find(|speaker| speaker.peer == peer)
    }

    /// A promise of a range leaves the list.
    fn keep_closed(&mut self, range: RangeId, index: Index, ts: Timestamp) {
        if let Some(&slot) = self.here.get(&range)
            && let Some(local) = self.slots[slot as usize].live_mut()
        {
            let applied = local.replica.applied_index();
            local.closed.keep(index, ts, applied);
        }
    }
}

/// Where the other replicas of a range are.
fn places<E: Env>(seat: &Seat<E>) -> Vec<Peer> {
    let (members, me) = (seat.raft.membership(), seat.raft.id());
    let others = members.members().filter(|member| *member != me);
    others.map(|member| seat.place_of(member)).collect()
}

impl<E: Env> Neighbours<E> {
    /// Says to every shard that lives what it does not know: the ranges among `changed`, or all when it begins a series.
    fn tell_closed(&self, closing: &mut Closing, changed: &[RangeId], series: Timestamp) {
        let Closing {
            closed,
            led,
            listeners,
            ..
        } = closing;
        // Who is not spoken to yet is so because of a range that has changed; from then on it is tried, also when it is not there now.
        let spoken_to = listeners.iter().map(|listener| listener.peer);
        let there = |range: &RangeId| led.get(range).map(|led| led.places.iter().copied());
        let mut peers: Vec<_> = spoken_to
            .chain(changed.iter().filter_map(there).flatten())
            .collect();
        peers.sort_unstable();
        peers.dedup();
        for peer in peers {
            let support = self.outlook.support(peer.node);
            let lives = support.given.is_some() || support.received.is_some();
            let at = listeners.iter().position(|listener| listener.peer == peer);
            let at = at.unwrap_or_else(|| {
                listeners.push(Listener::new(peer));
                listeners.len() - 1
            });
            let listener = &mut listeners[at];
            if !lives {
                listener.begin_anew();
                continue;
            }
            let is_there = |led: &Led| led.places.contains(&peer);
            let mut changes = Vec::new();
            if listener.series.is_some() {
                for range in changed {
                    let index = led.get(range).filter(|led| is_there(led)).map(|led| led.index);
                    changes.extend(listener.list(*range, index));
                }
            } else {
                for (range, led) in led.iter().filter(|(_, led)| is_there(led)) {
                    changes.extend(listener.list(*range, Some(led.index)));
                }
            }
            if listener.listed.is_empty() && changes.is_empty() {
                continue;
            }
            self.say_closed(listener, &changes, *closed, series);
        }
    }

    fn say_closed(
        &self,
        listener: &mut Listener,
        changes: &[ClosedRange],
        closed: Timestamp,
        series: Timestamp,
    ) {
        let series = *listener.series.get_or_insert(series);
        let mut rest = changes;
        loop {
            let (ranges, after) = rest.split_at(rest.len().min(CLOSED_RANGES_MAX));
            rest = after;
            let message = peer::Closed {
                series: series.into(),
                step: ClosedStep::Next {
                    number: listener.number,
                    ranges,
                    closed: rest.is_empty().then(|| closed.into()),
                },
            };
            listener.number += 1;
            if !self.links.send(listener.peer.node, listener.peer.shard, &message) {
                base::sometimes!("node: a closed timestamp could not be said");
                return listener.begin_anew();
            }
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// How long may be slept until something is to be promised.
pub(crate) fn nap_until(due: Option<Instant>, now: Instant) -> Duration {
    due.map_or(Duration::MAX, |due| due.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{NodeId, ShardId};

    fn ts(wall_ns: u64) -> Timestamp {
        Timestamp::new(wall_ns, 0)
    }

    const PEER: Peer = Peer {
        node: NodeId(2),
        shard: ShardId(0),
    };

    #[test]
    fn a_promise_counts_once_its_entry_is_applied() {
        let mut closed = Closed::default();
        closed.keep(Index(5), ts(10), Index(5));
        assert_eq!(closed.at(Index(5)), ts(10));
        closed.keep(Index(8), ts(20), Index(6));
        // The oldest one that is open is kept: a follower that is always behind gets on, too.
        closed.keep(Index(9), ts(30), Index(7));
        assert_eq!(closed.at(Index(7)), ts(10));
        assert_eq!(closed.at(Index(8)), ts(20));
        closed.keep(Index(12), ts(40), Index(9));
        assert_eq!((closed.at(Index(11)), closed.at(Index(12))), (ts(20), ts(40)));
    }

    #[test]
    fn a_gap_ends_a_series_until_the_next_one_begins() {
        let mut closing = Closing::default();
        let mut hear = |series, number| closing.hear(PEER, ts(series), number).0;
        assert_eq!(hear(7, 1), Follows::Gap, "the beginning was missed");
        assert_eq!([hear(7, 0), hear(7, 1)], [Follows::Yes; 2]);
        assert_eq!(hear(7, 3), Follows::Gap);
        assert_eq!(hear(7, 2), Follows::Gap, "what came late does not mend it");
        assert_eq!(hear(6, 0), Follows::No);
        assert_eq!(hear(8, 1), Follows::Gap);
        assert_eq!([hear(8, 0), hear(8, 1)], [Follows::Yes; 2]);
        assert_eq!(hear(8, 1), Follows::Gap, "twice");
    }

    #[test]
    fn what_a_series_has_promised_outlives_it() {
        let mut closing = Closing::default();
        closing.hear(PEER, ts(7), 0);
        closing.speakers[0].listed.insert(RangeId(3), Index(4));
        closing.speakers[0].closed = ts(50);
        assert_eq!(
            closing.speakers[0].closed_of(RangeId(3), Index(3)),
            Timestamp::ZERO
        );
        assert_eq!(closing.speakers[0].closed_of(RangeId(3), Index(4)), ts(50));
        let (follows, before) = closing.hear(PEER, ts(8), 0);
        let before = before.expect("a list was there");
        let (listed, closed) = (before.listed.len(), before.closed);
        assert_eq!((follows, listed, closed), (Follows::Yes, 1, ts(50)));
        assert_eq!(
            closing.speakers[0].closed_of(RangeId(3), Index(4)),
            Timestamp::ZERO
        );
    }

    #[test]
    fn only_changes_are_said() {
        let mut listener = Listener::new(PEER);
        let change = |index| Some(ClosedRange { range: 3, index });
        assert_eq!(listener.list(RangeId(3), None), None);
        assert_eq!(listener.list(RangeId(3), Some(Index(4))), change(4));
        assert_eq!(listener.list(RangeId(3), Some(Index(4))), None);
        assert_eq!(listener.list(RangeId(3), Some(Index(5))), change(5));
        assert_eq!(listener.list(RangeId(3), None), change(0));
        assert!(listener.listed.is_empty());
    }
}
