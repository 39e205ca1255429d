//! Errors as clients see them: a stable code, what happened to what, and whether to try again.

use base::{NodeId, RangeId, limits};
use replica::Met;
use storage::StorageError;
use wire::Code;

/// Why a request was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// How long to wait before another try; `None` when another try is pointless.
    pub retry_after_ms: Option<u32>,
    /// The range concerned.
    pub range: Option<RangeId>,
    /// The node that leads the range concerned, if it is another one and known.
    pub leader: Option<NodeId>,
    /// The key concerned.
    pub key: Option<Vec<u8>>,
    /// The intent of a transaction that is in the way.
    pub met: Option<Box<Met>>,
}

impl Refusal {
    /// The replica here will not lead, and knows nobody who does.
    pub(crate) fn only_learns(range: RangeId) -> Self {
        let message = format!(
            "this node has a replica of range {range} that only learns, and knows nobody who leads it"
        );
        Self::retry(Code::NotLeader, 20, message).about_range(range)
    }

    /// A refusal that a retry does not help.
    #[must_use]
    pub fn fatal(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: None,
            range: None,
            leader: None,
            key: None,
            met: None,
        }
    }

    /// An intent of a transaction is in the way.
    #[must_use]
    pub fn met(met: Box<Met>) -> Self {
        let message = format!(
            "transaction {} has an unfinished write on the key",
            met.seen.who.id
        );
        let refusal = Self::retry(Code::TxnConflict, 1, message).about_key(&met.key);
        Self {
            met: Some(met),
            ..refusal
        }
    }

    /// A refusal that a retry after `ms` may help.
    #[must_use]
    pub fn retry(code: Code, ms: u32, message: impl Into<String>) -> Self {
        Self {
            retry_after_ms: Some(ms),
            ..Self::fatal(code, message)
        }
    }

    /// The same, about `key`.
    #[must_use]
    pub fn about_key(mut self, key: &[u8]) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same, about `range`.
    #[must_use]
    pub fn about_range(mut self, range: RangeId) -> Self {
        self.range = Some(range);
        self
    }

    /// The same, about a range that `leader` leads.
    #[must_use]
    pub fn led_by(mut self, leader: NodeId) -> Self {
        self.leader = Some(leader);
        self
    }

    /// The deadline has passed before the request was begun.
    #[must_use]
    pub fn deadline(waited_for: &str) -> Self {
        Self::fatal(
            Code::DeadlineExceeded,
            format!("the deadline passed while waiting for {waited_for}"),
        )
    }

    /// The range has no replica on this node, or not yet.
    #[must_use]
    pub fn not_here() -> Self {
        Self::retry(Code::NotLeader, 1, "this node has no replica of the range yet")
    }

    /// Storage could not read.
    #[must_use]
    pub fn storage(error: &StorageError) -> Self {
        let code = match error {
            StorageError::Corruption(_) => Code::Corruption,
            StorageError::Disk(_) | StorageError::Poisoned { .. } => Code::DiskFailed,
            StorageError::BelowGcThreshold { .. } => Code::TimestampTooOld,
            StorageError::NoSuchTablet { .. } | StorageError::AlreadyExists { .. } => Code::NoSuchRange,
        };
        Self::fatal(code, error.to_string())
    }
}

/// Checks a key against the limits.
///
/// # Errors
/// The limit, named, with what was given.
pub fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::fatal(Code::EmptyKey, "a key has at least one byte"));
    }
    if key.len() > limits::KEY_BYTES_MAX {
        let message = format!(
            "the key has {} bytes; the limit is {}",
            key.len(),
            limits::KEY_BYTES_MAX
        );
        return Err(Refusal::fatal(Code::KeyTooLong, message).about_key(&key[..64]));
    }
    Ok(())
}

/// Checks the ends of a span. Its start may be empty: the start of the key space.
///
/// # Errors
/// The limit, named, or that the end lies before the start.
pub fn check_span(start: &[u8], end: Option<&[u8]>) -> Result<(), Refusal> {
    for key in [Some(start), end]
        .into_iter()
        .flatten()
        .filter(|key| !key.is_empty())
    {
        check_key(key)?;
    }
    if end.is_some_and(|end| end < start) {
        return Err(
            Refusal::fatal(Code::InvalidSpan, "the end of the span lies before its start").about_key(start),
        );
    }
    Ok(())
}

/// Checks a value against the limits.
///
/// # Errors
/// The limit, named, with what was given.
pub fn check_value(key: &[u8], value: &[u8]) -> Result<(), Refusal> {
    if value.len() > limits::VALUE_BYTES_MAX {
        let message = format!(
            "the value has {} bytes; the limit is {}",
            value.len(),
            limits::VALUE_BYTES_MAX
        );
        return Err(Refusal::fatal(Code::ValueTooLong, message).about_key(key));
    }
    Ok(())
}
