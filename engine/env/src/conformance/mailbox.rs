//! Rings between shards. Each case runs on all shards of a node at once, and ends with a meeting of them.

use crate::{Clock, Env, Mailbox};
use base::ShardId;
use core::time::Duration;

/// More than any ring holds.
const MESSAGES: u64 = 20_000;

/// What [`Post::meet`] sends. No case sends it for another reason.
const MEETING: u64 = u64::MAX;

/// A mailbox that sets aside the messages of shards that have come to the end of the case already.
struct Post<B> {
    mailbox: B,
    met: u16,
}

impl<B: Mailbox<u64>> Post<B> {
    fn new(mailbox: B) -> Self {
        assert!(mailbox.shards() >= 2, "the cases talk from shard to shard");
        Self { mailbox, met: 0 }
    }

    fn others(&self) -> impl Iterator<Item = ShardId> + use<B> {
        let own = self.mailbox.shard();
        (0..self.mailbox.shards())
            .map(ShardId)
            .filter(move |shard| *shard != own)
    }

    async fn send(&self, to: ShardId, mut message: u64) {
        while let Err(back) = self.mailbox.try_send(to, message) {
            message = back;
            self.mailbox.writable(to).await;
        }
    }

    fn try_receive(&mut self) -> Option<(ShardId, u64)> {
        while let Some((from, message)) = self.mailbox.try_receive() {
            if message != MEETING {
                return Some((from, message));
            }
            self.met += 1;
        }
        None
    }

    async fn receive(&mut self) -> (ShardId, u64) {
        loop {
            if let Some(received) = self.try_receive() {
                return received;
            }
            self.mailbox.readable().await;
        }
    }

    /// Waits until every shard has come so far: no shard ends while another still talks to it.
    async fn meet(mut self) {
        for other in self.others() {
            self.send(other, MEETING).await;
        }
        self.mailbox.flush();
        while self.met < self.mailbox.shards() - 1 {
            assert_eq!(
                self.try_receive(),
                None,
                "every message of the case was received before"
            );
            if self.met < self.mailbox.shards() - 1 {
                self.mailbox.readable().await;
            }
        }
    }
}

pub(super) async fn messages_arrive_once_and_in_order<E: Env, B: Mailbox<u64>>(_env: E, mailbox: B) {
    let mut post = Post::new(mailbox);
    match post.mailbox.shard().0 {
        0 => {
            for message in 0..MESSAGES {
                post.send(ShardId(1), message).await;
                // Uneven batches.
                if message % 7 == 0 {
                    post.mailbox.flush();
                }
            }
            post.mailbox.flush();
        }
        1 => {
            for expected in 0..MESSAGES {
                assert_eq!(post.receive().await, (ShardId(0), expected));
            }
        }
        _ => {}
    }
    post.meet().await;
}

pub(super) async fn a_full_ring_hands_the_message_back<E: Env, B: Mailbox<u64>>(_env: E, mailbox: B) {
    let mut post = Post::new(mailbox);
    match post.mailbox.shard().0 {
        0 => {
            // Without a flush nothing need be seen, but a full ring publishes what it holds.
            let mut staged = 0;
            while post.mailbox.try_send(ShardId(1), staged).is_ok() {
                staged += 1;
                assert!(staged < 1 << 24, "a ring without a bound");
            }
            assert!(staged > 0);
            post.mailbox.writable(ShardId(1)).await;
            post.send(ShardId(1), u64::MAX - 1).await;
            post.mailbox.flush();
            post.send(ShardId(1), staged).await;
            post.mailbox.flush();
        }
        1 => {
            let mut expected = 0;
            loop {
                let (_, message) = post.receive().await;
                if message == u64::MAX - 1 {
                    break;
                }
                assert_eq!(message, expected);
                expected += 1;
            }
            assert_eq!(
                post.receive().await.1,
                expected,
                "what was handed back was not sent as well"
            );
        }
        _ => {}
    }
    post.meet().await;
}

pub(super) async fn a_parked_shard_is_woken<E: Env, B: Mailbox<u64>>(env: E, mailbox: B) {
    let mut post = Post::new(mailbox);
    const ROUNDS: u64 = 30;
    for round in 0..ROUNDS {
        match post.mailbox.shard().0 {
            0 => {
                // Long enough that the other shard has parked, in most rounds.
                env.clock().sleep(Duration::from_millis(round % 3)).await;
                post.send(ShardId(1), round).await;
                post.mailbox.flush();
                assert_eq!(post.receive().await, (ShardId(1), round + 1000));
            }
            1 => {
                assert_eq!(post.receive().await, (ShardId(0), round));
                post.send(ShardId(0), round + 1000).await;
                post.mailbox.flush();
            }
            _ => {}
        }
    }
    post.meet().await;
}

pub(super) async fn every_shard_talks_to_every_other<E: Env, B: Mailbox<u64>>(_env: E, mailbox: B) {
    let mut post = Post::new(mailbox);
    const EACH: u64 = 500;
    let shards = post.mailbox.shards();
    let mut next = vec![0_u64; usize::from(shards)];
    let take = |next: &mut Vec<u64>, (from, message): (ShardId, u64)| {
        let expected = &mut next[usize::from(from.0)];
        assert_eq!(message, *expected, "from {from:?}");
        *expected += 1;
    };
    for message in 0..EACH {
        for to in post.others() {
            let mut message = message;
            // A shard takes what has come before it waits for room, or two full rings would wait for each other.
            while let Err(back) = post.mailbox.try_send(to, message) {
                message = back;
                while let Some(received) = post.try_receive() {
                    take(&mut next, received);
                }
                post.mailbox.writable(to).await;
            }
        }
        post.mailbox.flush();
    }
    while next.iter().sum::<u64>() < EACH * u64::from(shards - 1) {
        let received = post.receive().await;
        take(&mut next, received);
    }
    post.meet().await;
}
