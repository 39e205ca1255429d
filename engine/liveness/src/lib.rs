//! Liveness between pairs of shards: one failure detector for all Raft groups that two shards share. A pure core: no I/O, no
//! clock, no randomness, no `async`, no `unsafe`; in a steady state it allocates nothing.
//!
//! Shard A *asks* shard B for support at an epoch until a time; B *grants* it, and withdraws it only when its own clock has
//! passed that time, or when A itself asks at a higher epoch. A *believes* to be supported until that time less the most by
//! which two clocks may differ. Each of the two does both. From what A believes of a quorum its leases follow.
//!
//! ```text
//!   A   ask until 700 ─┐         ask until 900 ─┐                believes ····· until 450, then 650, …
//!   0 ms               │    100 ms         200 ms                (700 less 250 for the clocks)
//!   B                  └──► granted until 700, and B's own ask ──►
//! ```
//!
//! # The drive loop
//!
//! ```
//! use base::{NodeId, ShardId};
//! use corelane_liveness::{Config, Event, Liveness, Peer, Ready};
//!
//! let name = |node| Peer { node: NodeId(node), shard: ShardId(0) };
//! let mut now = 1_000_000_000; // Each node's own clock; here they agree.
//! let mut shards = [1, 2].map(|node| Liveness::new(name(node), Config::default(), None, now));
//! shards[0].add_peer(name(2), now).expect("there is room");
//! shards[1].add_peer(name(1), now).expect("there is room");
//!
//! let mut ready = Ready::default();
//! let mut network = Vec::new();
//! let mut believed = None;
//! while believed.is_none() {
//!     for shard in &mut shards {
//!         shard.ready(now, &mut ready);
//!         // 1. The groups hear of what changed, before any message leaves.
//!         for event in &ready.events {
//!             if let Event::Support { peer, support } = event {
//!                 believed = support.received.map(|epoch| (shard.me(), *peer, epoch));
//!             }
//!         }
//!         // 2. Messages leave.
//!         network.extend(ready.messages.drain(..).map(|(to, message)| (shard.me(), to, message)));
//!         // 3. Once per start there is something to write; nothing is sent before it is durable.
//!         if let Some(durable) = ready.durable {
//!             shard.persisted(durable);
//!         }
//!     }
//!     for (from, to, message) in network.drain(..) {
//!         let shard = shards.iter_mut().find(|shard| shard.me() == to).expect("one of two");
//!         shard.step(from, &message, now).expect("detectors send nothing malformed");
//!     }
//!     now += 1_000_000; // Or until the earliest `wake_at`.
//! }
//! let (me, peer, epoch) = believed.expect("the loop ended");
//! let shard = shards.iter().find(|shard| shard.me() == me).expect("one of two");
//! assert!(shard.supported_until(peer, epoch) > Some(now));
//! ```
//!
//! # Contract
//!
//! | call | the caller promises |
//! |---|---|
//! | [`Liveness::new`] | `restored` is what was last made durable, or all that it can have been is exceeded; no group of the shard takes part in anything before [`Liveness::may_start`] |
//! | all with `now_ns` | it is this node's clock, read just before; the same clock for all shards of the node |
//! | [`Liveness::step`] | messages may be lost, doubled, reordered and late; they are not changed on the way, and come from whom they seem to come |
//! | [`Liveness::ready`] | called after each input and at [`Liveness::wake_at`]; events are applied before messages leave |
//! | [`Liveness::supported_until`] | the clock is read after what the lease protects was read |
//!
//! # Why there are not two lease holders
//!
//! *Clocks.* There is a common time, known to nobody, that never goes back, and every live node's clock is within half of
//! `clock_offset_ns_max` of it. That is so when any two clocks differ by at most that, and none goes back: take the middle of
//! them. It allows jumps in both directions. A detector goes by the latest reading it has seen, which is as near.
//! Let *b* be the bound, *L* `support_ns`, T the common time.
//!
//! 1. *Who believes is supported.* A believes at T only if its clock is below `until - b`. So T is below `until - b/2`, and no
//!    clock has passed `until`, B's neither, now or earlier. So B has not withdrawn, unless A has asked at a higher epoch, and
//!    then A had given up the earlier one before.
//! 2. *No epoch is given twice.* Within a session, B demands more than what it withdrew. B's restart begins a new session; A
//!    takes a new epoch when it hears of it; and B listens to no ask that does not name its session. So whatever B grants after
//!    a restart was chosen after it. A's own numbers rise within a start and begin with the number of starts, which is durable
//!    before anything is said.
//! 3. *A restart keeps promises.* A promise is at most `L + b` from its granting by B's clock, so it is believed for less than
//!    `L + b` of T. B takes part in nothing for `L + 2b` of its clock after a start, which is at least `L + b` of T.
//! 4. A leader's lease lasts while each member of a quorum is bound to it at an epoch that its node believes to be given; by 1
//!    to 3 each is, and elects nobody else; another leader needs one of them.
//!
//! Nothing in this needs a write per promise, or that B knows after a restart what it had promised: the bound of all its
//! promises is a duration, and the epochs are A's to remember. What is durable is [`Durable`], written once per start.
//!
//! # When a clock is outside the bound
//!
//! 2 holds: it has no clock in it. 3 holds if clocks run at about the right pace, whatever they show: A believes for at most
//! `L - b` of its own clock after it asked, and B waits `L + 2b` of its own. So a clock that was set while a shard was down does
//! no harm. 1 can fail in one way: B's clock is ahead of A's by more than *b*. A measures how far ahead it can be, as an interval
//! ([`Offset`]) that is true of any delay, and takes off the upper end of it where that is more than *b*. So a difference that
//! lasts misleads nobody, however large; what can is a jump by more than *b* while both run, for at most `L - b`, until the next
//! message comes.
//!
//! By the same interval clocks within the bound are never accused. A pair that is certainly outside neither asks, grants nor
//! believes ([`Event::PeerClock`]). A node that is outside against more than half of the other nodes, or whose clock goes back
//! by more than *b*, says [`Event::ClockOutOfBound`] and neither grants nor believes anything until it is restarted. Of two
//! nodes nobody can say which is wrong: both stop. Pairs of other nodes are not touched.
//!
//! # Why these numbers
//!
//! A follower may ask for votes when its promise to the leader has expired: after 500 to 700 ms, by how long before its end the
//! leader asked last, if clocks agree, and as much earlier or later as they differ. That leaves 300 ms of a second for the
//! election. A beat of 200 ms asks anew before the lease of 700 - 250 = 450 ms is over: the answer comes half a beat later, since the
//! higher of a pair speaks half a beat after the lower, so the lease never has less than 150 ms left. A lost message costs 50 ms
//! of the lease, and neither epoch nor support. A bound of less than 250 ms makes the lease longer by as much. The bound is taken
//! off the asker's belief and not added to what the supporter waits, since each millisecond there is one of every fail-over.
//!
//! # Deliberately absent
//!
//! - Support at a distance: whom a shard cannot hear it does not support for long, and who cannot hear it is not supported. So
//!   a shard that can send but not receive loses its leases.
//! - Longer leases by measured offsets: clocks may jump in between. A measure only makes a lease shorter: when messages take
//!   longer than the bound, or clocks are wrong.
//! - Byzantine peers: one that lies can deceive about its own pair, never about another; see `tests/hostile.rs`.
//!
//! Source: the idea of support with epochs is that of CockroachDB's store liveness (2024); sessions instead of durable
//! promises, and what follows from them, are our own. Leases and clock bounds: Gray and Cheriton (1989).

mod config;
mod liveness;
mod message;
mod offset;
mod pair;
mod ready;

pub use config::Config;
pub use liveness::{AddError, Liveness, StepError};
pub use message::{Answer, Echo, Epoch, Message, Peer, Promise, Session};
pub use offset::Offset;
pub use ready::{Durable, Event, Ready, Support};

#[cfg(test)]
mod tests {
    use super::*;

    /// What `docs/liveness.md` says of them.
    #[test]
    fn sizes_are_those_stated() {
        assert_eq!(size_of::<pair::Pair>(), 208);
        assert_eq!(size_of::<Message>(), 96);
    }
}
