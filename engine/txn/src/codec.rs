//! The bytes of mutations, intents, records, batches and answers: what a range's log, a replica's state and messages between nodes
//! carry of transactions. The layout is the tables of `codec/layout.rs`; what stands around these bytes says of which version they are.
//!
//! ```text
//! number            LEB128: seven bits a byte, lowest first, all but the last byte with the top bit set; the shortest form only
//! flag              0 or 1
//! timestamp         wall_ns u64 │ logical u32, little-endian
//! client            u128, little-endian
//! signed            i64, little-endian
//! bytes, text       length (number) │ as many bytes; text is UTF-8
//! optional          0, or 1 │ what it is
//! list              how many (number) │ each
//! struct            its fields, in the order of its table
//! enum              tag u8, from 1 │ the variant's fields
//! ```
//!
//! A value has one encoding, and no other is accepted: what decodes encodes to the bytes that it came from.
//!
//! Limits: a key has [`KEY_BYTES_MAX`] bytes; a bound of a span one more (the successor of the longest key), and so has an anchor, which
//! may be the start of a span; a value has [`VALUE_BYTES_MAX`]. Encoding does not check them: whoever lets keys and values in does.
//! Lists, names and texts are as long as the bytes that remain allow. A list first takes no more memory than there are input bytes, and
//! grows with what was decoded: all in all a few bytes for each of sensible ones. A batch's lists have a limit, for it comes from outside: one of beats alone would take 200.
//!
//! [`KEY_BYTES_MAX`]: base::limits::KEY_BYTES_MAX
//! [`VALUE_BYTES_MAX`]: base::limits::VALUE_BYTES_MAX

mod code;
mod layout;

use crate::record::{Intent, Record};
use crate::request::{Answer, Batch};
use crate::view::Mutation;
use base::limits::BATCH_OPS_MAX;
use code::{Code, Input};

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at byte {at}, {why}")]
pub struct CodecError {
    /// What did not decode, as in `Request::Write.key`.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
    /// Where it begins: how many bytes of the given ones are before it.
    pub at: usize,
}

/// Appends the payload of a range's log entry: the mutations of one command, in their order.
pub fn encode_mutations(mutations: &[Mutation], out: &mut Vec<u8>) {
    code::put_list::<Mutation>(mutations, out);
}

/// Hands out the mutations that `bytes` are, one by one.
///
/// # Errors
/// [`CodecError`] when `bytes` are not exactly one list of mutations. Those before what is wrong were handed out.
pub fn each_mutation(bytes: &[u8], each: impl FnMut(Mutation)) -> Result<(), CodecError> {
    let what = "Mutations";
    let mut input = Input::new(bytes, usize::MAX);
    input.each::<Mutation>(what, each)?;
    ends(&input, what)
}

/// Appends an intent. Several may follow each other.
pub fn encode_intent(intent: &Intent, out: &mut Vec<u8>) {
    Intent::put(intent, out);
}

/// Takes an intent off the front of `input`, which stays as it was when there is none.
///
/// # Errors
/// [`CodecError`] when `input` does not begin with an intent; `at` counts from the front of `input`.
pub fn decode_intent(input: &mut &[u8]) -> Result<Intent, CodecError> {
    front::<Intent>(input, "Intent", usize::MAX)
}

/// Appends a record. Several may follow each other.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) {
    Record::put(record, out);
}

/// Takes a record off the front of `input`, which stays as it was when there is none.
///
/// # Errors
/// [`CodecError`] when `input` does not begin with a record; `at` counts from the front of `input`.
pub fn decode_record(input: &mut &[u8]) -> Result<Record, CodecError> {
    front::<Record>(input, "Record", usize::MAX)
}

/// Appends a batch.
pub fn encode_batch(batch: &Batch, out: &mut Vec<u8>) {
    Batch::put(batch, out);
}

/// The batch that `bytes` are, with lists of at most [`BATCH_OPS_MAX`]. It may be one that this crate never sends: see [`Batch::flaw`].
///
/// # Errors
/// [`CodecError`] when `bytes` are not exactly one batch.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, CodecError> {
    whole::<Batch>(bytes, "Batch", BATCH_OPS_MAX)
}

/// Appends an answer.
pub fn encode_answer(answer: &Answer, out: &mut Vec<u8>) {
    Answer::put(answer, out);
}

/// The answer that `bytes` are. Whether it answers what was asked is for the receiver to see: see
/// [`Request::is_answered_by`](crate::request::Request::is_answered_by).
///
/// # Errors
/// [`CodecError`] when `bytes` are not exactly one answer.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, CodecError> {
    whole::<Answer>(bytes, "Answer", usize::MAX)
}

fn front<C: Code>(bytes: &mut &[u8], what: &'static str, list_max: usize) -> Result<C::Out, CodecError> {
    let mut input = Input::new(bytes, list_max);
    let value = C::take(&mut input, what)?;
    *bytes = input.rest();
    Ok(value)
}

fn whole<C: Code>(bytes: &[u8], what: &'static str, list_max: usize) -> Result<C::Out, CodecError> {
    let mut input = Input::new(bytes, list_max);
    let value = C::take(&mut input, what)?;
    ends(&input, what)?;
    Ok(value)
}

fn ends(input: &Input<'_>, what: &'static str) -> Result<(), CodecError> {
    if input.rest().is_empty() {
        return Ok(());
    }
    let (why, at) = ("is followed by more bytes", input.at());
    Err(CodecError { what, why, at })
}
