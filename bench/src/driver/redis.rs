//! Redis and Valkey: pipelined `GET`, `SET` and `ECHO`, answered in order.

use std::collections::VecDeque;

use super::buffer::{Incoming, Outgoing};
use super::resp::{self, Reply};
use super::{Answer, Driver, DriverError, Op, Sink};

/// One connection to a Redis-like server.
#[derive(Debug, Default)]
pub(crate) struct RedisDriver {
    incoming: Incoming,
    outgoing: Outgoing,
    /// Slots in the order of their requests, which is the order of the answers.
    in_flight: VecDeque<u32>,
}

impl RedisDriver {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl Driver for RedisDriver {
    fn request(&mut self, slot: u32, op: &Op<'_>) -> Result<(), DriverError> {
        let out = &mut self.outgoing.bytes;
        match *op {
            Op::Echo { payload } => resp::command(out, &[b"ECHO", payload]),
            Op::Put { key, value } => resp::command(out, &[b"SET", key, value]),
            Op::Get { key } => resp::command(out, &[b"GET", key]),
            Op::Disk => {
                return Err(DriverError::Unexpected {
                    kind: "disk write",
                    slot,
                });
            }
            Op::Scan { .. } => return Err(DriverError::Unexpected { kind: "scan", slot }),
        }
        self.in_flight.push_back(slot);
        Ok(())
    }

    fn outgoing(&self) -> &[u8] {
        self.outgoing.unsent()
    }

    fn sent(&mut self, bytes: usize) {
        self.outgoing.sent(bytes);
    }

    fn spare(&mut self) -> &mut [u8] {
        self.incoming.spare()
    }

    fn filled(&mut self, bytes: usize, sink: &mut Sink<'_>) -> Result<(), DriverError> {
        self.incoming.filled(bytes)?;
        let mut used = 0;
        while let Some((reply, length)) = resp::parse(&self.incoming.unread()[used..])? {
            used += length;
            let slot = self
                .in_flight
                .pop_front()
                .ok_or(DriverError::NotAsked { slot: 0 })?;
            match reply {
                Reply::Simple(_) | Reply::Integer(_) => sink(slot, Answer::Done),
                Reply::Bulk(value) => sink(slot, Answer::Value(value)),
                Reply::Nil => sink(slot, Answer::Missing),
                Reply::Error(message) => {
                    sink(
                        slot,
                        Answer::Failed(core::str::from_utf8(message).unwrap_or("an error that is not text")),
                    );
                }
            }
        }
        self.incoming.consume(used);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_their_slots_in_order_however_the_bytes_are_cut() {
        let stream = b"+OK\r\n$2\r\nab\r\n$-1\r\n-ERR full\r\n";
        for cut in 0..=stream.len() {
            let mut driver = RedisDriver::new();
            driver
                .request(
                    5,
                    &Op::Put {
                        key: b"k",
                        value: b"v",
                    },
                )
                .unwrap();
            for slot in [9, 2, 7] {
                driver.request(slot, &Op::Get { key: b"k" }).unwrap();
            }
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                driver.spare()[..part.len()].copy_from_slice(part);
                driver
                    .filled(part.len(), &mut |slot, answer| {
                        seen.push(format!("{slot} {answer:?}"));
                    })
                    .unwrap();
            }
            assert_eq!(
                seen,
                [
                    "5 Done",
                    "9 Value([97, 98])",
                    "2 Missing",
                    "7 Failed(\"ERR full\")"
                ]
            );
        }
    }

    #[test]
    fn an_answer_that_nobody_asked_for_ends_the_connection() {
        let mut driver = RedisDriver::new();
        driver.spare()[..5].copy_from_slice(b"+OK\r\n");
        assert_eq!(
            driver.filled(5, &mut |_, _| {}),
            Err(DriverError::NotAsked { slot: 0 })
        );
    }
}
