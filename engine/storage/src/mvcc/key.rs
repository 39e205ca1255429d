//! Version keys: a user key and a timestamp as bytes whose order is *key ascending, then newest first*.
//!
//! ```text
//!   user key, 0x00 written as 0x00 0xff │ 0x00 0x01 │ timestamp, complemented, big-endian
//!   ────────────── any length ───────────┴─ 2 bytes ─┴──────────── 12 bytes ─────────────
//! ```
//!
//! The terminator sorts below an escaped zero, so a key sorts before each of its extensions whatever the timestamps are.
//!
//! Invariants:
//! - `encode` keeps the order of `(key, Reverse(ts))`.
//! - Two version keys share their first `user_len` bytes exactly when they are versions of one key.

use base::Timestamp;

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// Appends the part of a version key that all versions of `key` share.
pub(crate) fn encode_user(out: &mut Vec<u8>, key: &[u8]) {
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|&b| b == ESCAPE) {
        out.extend_from_slice(&rest[..zero]);
        out.extend_from_slice(&[ESCAPE, ESCAPED_ZERO]);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[ESCAPE, TERMINATOR]);
}

/// Appends the version key of `key` at `ts`.
pub(crate) fn encode(out: &mut Vec<u8>, key: &[u8], ts: Timestamp) {
    encode_user(out, key);
    out.extend_from_slice(&ts.encode_descending());
}

/// How many bytes of a version key belong to the user key; `None` when it is too short to be one.
pub(crate) fn user_len(encoded: &[u8]) -> Option<usize> {
    let len = encoded.len().checked_sub(Timestamp::ENCODED_LEN)?;
    encoded[..len].ends_with(&[ESCAPE, TERMINATOR]).then_some(len)
}

/// Appends the user key whose escaped form (with terminator) is `escaped`; `None` when it is malformed.
pub(crate) fn decode_user(out: &mut Vec<u8>, escaped: &[u8]) -> Option<()> {
    let mut rest = escaped.strip_suffix(&[ESCAPE, TERMINATOR])?;
    while let Some(zero) = rest.iter().position(|&b| b == ESCAPE) {
        if rest.get(zero + 1) != Some(&ESCAPED_ZERO) {
            return None;
        }
        out.extend_from_slice(&rest[..=zero]);
        rest = &rest[zero + 2..];
    }
    out.extend_from_slice(rest);
    Some(())
}

/// The timestamp of a version key; `None` when it is too short to have one.
pub(crate) fn decode_ts(encoded: &[u8]) -> Option<Timestamp> {
    encoded.last_chunk().map(Timestamp::decode_descending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..12)
    }

    fn ts() -> impl Strategy<Value = Timestamp> {
        (prop_oneof![0u64..3, any::<u64>()], 0u32..3)
            .prop_map(|(wall, logical)| Timestamp::new(wall, logical))
    }

    proptest! {
        #[test]
        fn order_is_key_ascending_then_newest_first(a in key(), at in ts(), b in key(), bt in ts()) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            encode(&mut x, &a, at);
            encode(&mut y, &b, bt);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b).then(bt.cmp(&at)));
        }

        #[test]
        fn round_trip(key in key(), ts in ts()) {
            let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
            encode(&mut encoded, &key, ts);
            let user = user_len(&encoded).expect("a version key");
            prop_assert_eq!(decode_user(&mut decoded, &encoded[..user]), Some(()));
            prop_assert_eq!(decoded, key);
            prop_assert_eq!(decode_ts(&encoded), Some(ts));
        }

        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(user) = user_len(&bytes) {
                let _ = decode_user(&mut Vec::new(), &bytes[..user]);
            }
        }
    }
}
