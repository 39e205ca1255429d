//! What must hold for any bytes at all. Used by the tests beside this folder and, by path, by the fuzz target.

use corelane_txn::codec::{self, CodecError};

/// What the first byte of an input says that the rest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mutations,
    Intent,
    Record,
    Batch,
    Answer,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Mutations,
        Self::Intent,
        Self::Record,
        Self::Batch,
        Self::Answer,
    ];
}

/// The kind that the first byte chooses, and the rest: its bytes or an error inside them.
pub(crate) fn decode(data: &[u8]) {
    if let Some((&kind, bytes)) = data.split_first() {
        // An answer either way.
        let _ = check(Kind::ALL[usize::from(kind) % Kind::ALL.len()], bytes);
    }
}

/// Decodes `bytes`, and says how many were taken. What decodes encodes to just these; an error is at one of them, or at their end.
pub(crate) fn check(kind: Kind, bytes: &[u8]) -> Result<usize, CodecError> {
    let mut out = Vec::new();
    let mut rest = bytes;
    let decoded = match kind {
        Kind::Mutations => {
            let mut value = Vec::new();
            codec::each_mutation(bytes, |mutation| value.push(mutation)).map(|()| {
                codec::encode_mutations(&value, &mut out);
                rest = &[];
            })
        }
        Kind::Intent => codec::decode_intent(&mut rest).map(|value| codec::encode_intent(&value, &mut out)),
        Kind::Record => codec::decode_record(&mut rest).map(|value| codec::encode_record(&value, &mut out)),
        Kind::Batch => codec::decode_batch(bytes).map(|value| {
            codec::encode_batch(&value, &mut out);
            rest = &[];
        }),
        Kind::Answer => codec::decode_answer(bytes).map(|value| {
            codec::encode_answer(&value, &mut out);
            rest = &[];
        }),
    };
    let taken = bytes.len() - rest.len();
    match decoded {
        Ok(()) => {
            assert_eq!(out, &bytes[..taken], "a value has one encoding");
            Ok(taken)
        }
        Err(error) => {
            assert_eq!(rest, bytes, "nothing is taken of what does not decode");
            assert!(error.at <= bytes.len(), "{error}");
            Err(error)
        }
    }
}
