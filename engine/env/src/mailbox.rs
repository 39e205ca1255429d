//! Rings between the shards of a node.

use base::ShardId;
use core::future::Future;

/// One shard's end of all rings to and from the other shards of its node: for each ordered pair one bounded ring, in order.
///
/// Sending stages; [`Mailbox::flush`] publishes what was staged and wakes each receiver at most once. A full ring is
/// back-pressure: the message comes back and the sender waits for [`Mailbox::writable`].
pub trait Mailbox<M: Send + 'static>: 'static {
    /// This shard.
    fn shard(&self) -> ShardId;

    /// How many shards the node has.
    fn shards(&self) -> u16;

    /// Stages `message` for `to`, another shard.
    ///
    /// # Errors
    /// Hands `message` back when the ring is full. What was staged before is published by then.
    fn try_send(&self, to: ShardId, message: M) -> Result<(), M>;

    /// Publishes everything staged. Call once per loop turn.
    fn flush(&self);

    /// The next message, if any: rings are served in turn.
    fn try_receive(&self) -> Option<(ShardId, M)>;

    /// Completes when [`Mailbox::try_receive`] is worth a call. May complete spuriously; never misses a published message.
    fn readable(&self) -> impl Future<Output = ()>;

    /// Completes when the ring to `to` has room.
    fn writable(&self, to: ShardId) -> impl Future<Output = ()>;
}
