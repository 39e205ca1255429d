//! The cases that every implementation of the seam must pass.

use crate::{Env, Mailbox};
use core::future::Future;
use core::pin::Pin;

/// A boxed case.
pub type Running = Pin<Box<dyn Future<Output = ()>>>;
/// A case's name and how to start it.
pub type Case<E> = (&'static str, fn(E) -> Running);

/// All cases that need one shard.
#[must_use]
pub fn cases<E: Env>() -> Vec<Case<E>> {
    Vec::new()
}

/// A case's name and how to start it on one shard; it runs on all shards of a node at once.
pub type MailboxCase<E, B> = (&'static str, fn(E, B) -> Running);

/// All cases that need several shards: at least two.
#[must_use]
pub fn mailbox_cases<E: Env, B: Mailbox<u64>>() -> Vec<MailboxCase<E, B>> {
    Vec::new()
}
