//! Rings between shards. Each case runs on all shards of a node at once; the last lines of each make sure that no shard ends
//! while another still talks to it.

use crate::{Clock, Env, Mailbox};
use base::ShardId;
use core::time::Duration;

/// More than any ring holds.
const MESSAGES: u64 = 20_000;

async fn send<B: Mailbox<u64>>(mailbox: &B, to: ShardId, mut message: u64) {
    while let Err(back) = mailbox.try_send(to, message) {
        message = back;
        mailbox.writable(to).await;
    }
}

async fn receive<B: Mailbox<u64>>(mailbox: &B) -> (ShardId, u64) {
    loop {
        if let Some(received) = mailbox.try_receive() {
            return received;
        }
        mailbox.readable().await;
    }
}

/// A message to every other shard and one from each: nobody is behind any more.
async fn meet<B: Mailbox<u64>>(mailbox: &B) {
    let others = || (0..mailbox.shards()).map(ShardId).filter(|shard| *shard != mailbox.shard());
    for other in others() {
        send(mailbox, other, u64::MAX).await;
    }
    mailbox.flush();
    for _ in others() {
        assert_eq!(receive(mailbox).await.1, u64::MAX);
    }
}

pub(super) async fn messages_arrive_once_and_in_order<E: Env, B: Mailbox<u64>>(_env: E, mailbox: B) {
    assert!(mailbox.shards() >= 2);
    match mailbox.shard().0 {
        0 => {
            for message in 0..MESSAGES {
                send(&mailbox, ShardId(1), message).await;
                // Uneven batches.
                if message % 7 == 0 {
                    mailbox.flush();
                }
            }
            mailbox.flush();
        }
        1 => {
            for expected in 0..MESSAGES {
                assert_eq!(receive(&mailbox).await, (ShardId(0), expected));
            }
        }
        _ => {}
    }
    meet(&mailbox).await;
    assert_eq!(mailbox.try_receive(), None);
}

pub(super) async fn a_full_ring_hands_the_message_back<E: Env, B: Mailbox<u64>>(_env: E, mailbox: B) {
    match mailbox.shard().0 {
        0 => {
            // Without a flush nothing need be seen, but a full ring publishes what it holds.
            let mut staged = 0;
            while mailbox.try_send(ShardId(1), staged).is_ok() {
                staged += 1;
                assert!(staged < 1 << 24, "a ring without a bound");
            }
            assert!(staged > 0);
            mailbox.writable(ShardId(1)).await;
            send(&mailbox, ShardId(1), u64::MAX - 1).await;
            mailbox.flush();
            send(&mailbox, ShardId(1), staged).await;
            mailbox.flush();
        }
        1 => {
            let mut expected = 0;
            loop {
                let (_, message) = receive(&mailbox).await;
                if message == u64::MAX - 1 {
                    break;
                }
                assert_eq!(message, expected);
                expected += 1;
            }
            assert_eq!(receive(&mailbox).await.1, expected, "what was handed back was not sent as well");
        }
        _ => {}
    }
    meet(&mailbox).await;
}

pub(super) async fn a_parked_shard_is_woken<E: Env, B: Mailbox<u64>>(env: E, mailbox: B) {
    const ROUNDS: u64 = 30;
    for round in 0..ROUNDS {
        match mailbox.shard().0 {
            0 => {
                // Long enough that the other shard has parked, in most rounds.
                env.clock().sleep(Duration::from_millis(round % 3)).await;
                send(&mailbox, ShardId(1), round).await;
                mailbox.flush();
                assert_eq!(receive(&mailbox).await, (ShardId(1), round + 1000));
            }
            1 => {
                assert_eq!(receive(&mailbox).await, (ShardId(0), round));
                send(&mailbox, ShardId(0), round + 1000).await;
                mailbox.flush();
            }
            _ => {}
        }
    }
    meet(&mailbox).await;
}

pub(super) async fn every_shard_talks_to_every_other<E: Env, B: Mailbox<u64>>(_env: E, mailbox: B) {
    const EACH: u64 = 500;
    let shards = mailbox.shards();
    let mut next = vec![0_u64; usize::from(shards)];
    let take = |next: &mut Vec<u64>, (from, message): (ShardId, u64)| {
        let expected = &mut next[usize::from(from.0)];
        assert_eq!(message, *expected, "from {from:?}");
        *expected += 1;
    };
    for message in 0..EACH {
        for to in (0..shards).map(ShardId).filter(|to| *to != mailbox.shard()) {
            let mut message = message;
            // A shard that waits for room must go on receiving, or two full rings wait for each other.
            while let Err(back) = mailbox.try_send(to, message) {
                message = back;
                let received = receive(&mailbox).await;
                take(&mut next, received);
            }
        }
        mailbox.flush();
    }
    while next.iter().sum::<u64>() < EACH * u64::from(shards - 1) {
        let received = receive(&mailbox).await;
        take(&mut next, received);
    }
    assert_eq!(mailbox.try_receive(), None);
}
