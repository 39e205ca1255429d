//! Byte buffers of a connection: what waits to be sent, and what was received and not yet understood.

use super::DriverError;

/// A drained buffer keeps at most this much memory.
const KEEP_BYTES: usize = 1 << 20;
/// Room offered to one receive, at least.
const SPARE_BYTES: usize = 64 << 10;
/// The longest single answer that is kept.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Bytes waiting to be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Append here.
    pub(super) bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(super) fn sent(&mut self, count: usize) {
        assert!(
            count <= self.unsent().len(),
            "sent {count} bytes of {}",
            self.unsent().len()
        );
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP_BYTES);
            self.sent = 0;
        }
    }
}

/// Received bytes.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    pub(super) fn spare(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.bytes.len() - self.end < SPARE_BYTES {
            let len = (self.end + SPARE_BYTES).max(self.bytes.len() * 2);
            self.bytes.resize(len, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Takes in `count` bytes of the spare room.
    ///
    /// # Errors
    /// When one answer has grown past what is kept.
    pub(super) fn filled(&mut self, count: usize) -> Result<(), DriverError> {
        assert!(
            count <= self.bytes.len() - self.end,
            "filled {count} bytes of less room"
        );
        self.end += count;
        if self.end - self.start > ANSWER_BYTES_MAX + SPARE_BYTES {
            return Err(DriverError::TooLong {
                max: ANSWER_BYTES_MAX,
            });
        }
        Ok(())
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        assert!(
            count <= self.unread().len(),
            "consumed {count} bytes of {}",
            self.unread().len()
        );
        self.start += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut incoming = Incoming::default();
        let mut expected = Vec::new();
        for round in 0..200u8 {
            incoming.spare()[..3].copy_from_slice(&[round; 3]);
            incoming.filled(3).unwrap();
            expected.extend([round; 3]);
            if round % 7 == 0 {
                incoming.consume(2);
                expected.drain(..2);
            }
            assert_eq!(incoming.unread(), expected);
        }
    }

    #[test]
    fn outgoing_keeps_what_a_short_send_left() {
        let mut outgoing = Outgoing::default();
        outgoing.bytes.extend(b"abcdef");
        outgoing.sent(2);
        outgoing.bytes.extend(b"gh");
        assert_eq!(outgoing.unsent(), b"cdefgh");
        outgoing.sent(6);
        assert_eq!(outgoing.unsent(), b"");
    }
}
