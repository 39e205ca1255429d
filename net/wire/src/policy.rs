//! What is wished for the keys of a prefix, as clients say it and nodes tell each other.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// Policies in force of one cluster.
pub const POLICIES_MAX: usize = 256;
/// Prefixes that a cluster remembers: those with a policy, and those whose policy was removed.
pub const POLICY_ENTRIES_MAX: usize = 1024;
/// Bytes of a policy's prefix.
pub const POLICY_PREFIX_BYTES_MAX: usize = 256;
/// Bytes of all constraints of a policy, as text, and of all its lease preferences.
pub const POLICY_TEXT_BYTES_MAX: usize = 512;
/// Bytes of the name of a group.
pub const POLICY_GROUP_BYTES_MAX: usize = 128;

/// What is wished for the keys of a prefix, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct PolicyWish<'a> {
    /// Voters of each range; zero for as many as where nothing else is said.
    pub replicas: u32,
    /// Bytes at which a range is split; zero for those where nothing else is said.
    pub split_bytes: u64,
    /// Where replicas may be: `+region=eu,-zone=b,+disk=fast:2`. At most [`POLICY_TEXT_BYTES_MAX`] bytes.
    #[rkyv(with = InlineAsBox)]
    pub constraints: &'a str,
    /// Where leases are wished, best first: `+zone=a;+region=eu,-zone=b`. At most [`POLICY_TEXT_BYTES_MAX`] bytes.
    #[rkyv(with = InlineAsBox)]
    pub preferences: &'a str,
    /// Ranges of one group have their leases together; empty for none. At most [`POLICY_GROUP_BYTES_MAX`] bytes.
    #[rkyv(with = InlineAsBox)]
    pub group: &'a str,
}

/// What was said of a prefix, version 1. Of two for one prefix the one with the greater version counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Policy<'a> {
    /// The keys: at most [`POLICY_PREFIX_BYTES_MAX`] bytes; none for all keys.
    #[rkyv(with = InlineAsBox)]
    pub prefix: &'a [u8],
    /// When it was said, in nanoseconds of a wall clock.
    pub version: u64,
    /// What is wished; `None` when the policy was removed.
    pub wish: Option<PolicyWish<'a>>,
}

/// Says what is wished for the keys of a prefix, version 1. Answered by [`crate::reply::SetPolicyReply`] on the node that leads the
/// first range, once a majority of that range's voters has it durably; others refuse and name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct SetPolicy<'a> {
    /// As in [`Policy`].
    #[rkyv(with = InlineAsBox)]
    pub prefix: &'a [u8],
    /// As in [`Policy`]: `None` removes it.
    pub wish: Option<PolicyWish<'a>>,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Asks for all policies, version 1. Answered by [`crate::reply::PoliciesReply`] on the node that leads the first range; others
/// refuse and name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Policies {
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Answers [`SetPolicy`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct SetPolicyReply<'a> {
    /// What cannot be as it is wished with the nodes that there are: sentences for people, one a line.
    #[rkyv(with = InlineAsBox)]
    pub doubts: &'a str,
    /// What was wished before; `None` when nothing was.
    pub before: Option<PolicyWish<'a>>,
}

/// Answers [`Policies`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct PoliciesReply<'a> {
    /// Voters of each range where nothing else is said.
    pub replicas: u32,
    /// Bytes at which a range is split where nothing else is said.
    pub split_bytes: u64,
    /// Those in force, by prefix.
    #[rkyv(with = InlineAsBox)]
    pub policies: &'a [Policy<'a>],
}
