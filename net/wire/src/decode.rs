//! From a checked frame to a message, in place.
//!
//! The frame's checksum says that the bytes are what the sender meant; the checks here say that they are a message: every
//! pointer, length, discriminant and string of the archive lies where it may. Whether a key is too long, or a span makes
//! sense, is for the server to say, with an error reply: it does not end the connection.
#![deny(clippy::indexing_slicing)]

use crate::frame::{Frame, Kind};
use crate::outbox::Message;
use crate::{peer, reply, request};
use rkyv::Portable;
use rkyv::api::low::{LowValidator, access};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

/// The payload is not what the frame's kind promises. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The payload is not an archive of this kind's message.
    #[error("malformed {} payload of {bytes} bytes", .kind.name())]
    Malformed {
        /// The frame's kind.
        kind: Kind,
        /// The payload's length.
        bytes: usize,
    },
    /// The message is for the other side of the connection.
    #[error("a {} does not belong in this direction", .kind.name())]
    WrongDirection {
        /// The frame's kind.
        kind: Kind,
    },
}

impl WireError {
    /// A stable name for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::WrongDirection { .. } => "wrong_direction",
        }
    }
}

fn checked<'a, T>(frame: &Frame<'a>) -> Result<&'a T, WireError>
where
    T: Portable + for<'v> CheckBytes<LowValidator<'v, Failure>>,
{
    access::<T, Failure>(frame.payload).map_err(|Failure| WireError::Malformed {
        kind: frame.kind,
        bytes: frame.payload.len(),
    })
}

macro_rules! messages {
    ($(#[$doc:meta])* $enum:ident, $module:ident, $decode:ident, [$($kind:ident : $archived:ident $(<$life:lifetime>)?,)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[expect(missing_docs, reason = "each variant is the message of that name")]
        pub enum $enum<'a> {
            $($kind(&'a $module::$archived $(<$life>)?),)*
        }

        impl $enum<'_> {
            /// The kind in the header.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }
        }

        impl core::fmt::Debug for $enum<'_> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.kind().name())
            }
        }

        fn $decode<'a>(frame: &Frame<'a>) -> Result<Option<$enum<'a>>, WireError> {
            Ok(match frame.kind {
                $(Kind::$kind => Some($enum::$kind(checked(frame)?)),)*
                _ => None,
            })
        }
    };
}

messages! {
    /// A request, read in place.
    RequestRef, request, request_of, [
        Hello: ArchivedHello<'static>,
        Get: ArchivedGet<'static>,
        Put: ArchivedPut<'static>,
        Write: ArchivedWrite<'static>,
        Scan: ArchivedScan<'static>,
        ScanCredit: ArchivedScanCredit,
        ScanCancel: ArchivedScanCancel,
        RangeMap: ArchivedRangeMap,
        Split: ArchivedSplit<'static>,
        Move: ArchivedMove,
        Status: ArchivedStatus,
        Echo: ArchivedEcho<'static>,
        DiskWrite: ArchivedDiskWrite,
        Place: ArchivedPlace<'static>,
        Explain: ArchivedExplain,
        Stand: ArchivedStand,
        SetPolicy: ArchivedSetPolicy<'static>,
        Policies: ArchivedPolicies,
        Transact: ArchivedTransact<'static>,
        Merge: ArchivedMerge,
        Modify: ArchivedModify<'static>,
    ]
}

messages! {
    /// A reply, read in place.
    ReplyRef, reply, reply_of, [
        HelloReply: ArchivedHelloReply<'static>,
        GetReply: ArchivedGetReply<'static>,
        StaleReply: ArchivedStaleReply<'static>,
        WriteReply: ArchivedWriteReply,
        ConditionFailed: ArchivedConditionFailed<'static>,
        ModifyReply: ArchivedModifyReply<'static>,
        ScanPage: ArchivedScanPage<'static>,
        RangeMapReply: ArchivedRangeMapReply<'static>,
        SplitReply: ArchivedSplitReply,
        MoveReply: ArchivedMoveReply,
        StatusReply: ArchivedStatusReply<'static>,
        EchoReply: ArchivedEchoReply<'static>,
        DiskWriteReply: ArchivedDiskWriteReply,
        MergeReply: ArchivedMergeReply,
        PlaceReply: ArchivedPlaceReply<'static>,
        ExplainReply: ArchivedExplainReply<'static>,
        StandReply: ArchivedStandReply,
        SetPolicyReply: ArchivedSetPolicyReply<'static>,
        PoliciesReply: ArchivedPoliciesReply<'static>,
        TransactReply: ArchivedTransactReply<'static>,
        ErrorReply: ArchivedErrorReply<'static>,
    ]
}

messages! {
    /// A message of another shard, read in place.
    PeerRef, peer, peer_of, [
        PeerHello: ArchivedPeerHello,
        Train: ArchivedTrain<'static>,
        Transfer: ArchivedTransfer<'static>,
        Roster: ArchivedRoster<'static>,
        Placing: ArchivedPlacing<'static>,
        Closed: ArchivedClosed<'static>,
        Newest: ArchivedNewest<'static>,
    ]
}

/// Reads a frame that a shard of another node sent.
///
/// # Errors
/// [`WireError`]; the connection is closed.
pub fn decode_peer<'a>(frame: &Frame<'a>) -> Result<PeerRef<'a>, WireError> {
    peer_of(frame)?.ok_or(WireError::WrongDirection { kind: frame.kind })
}

/// Reads a frame that a client sent.
///
/// # Errors
/// [`WireError`]; the connection is closed.
pub fn decode_request<'a>(frame: &Frame<'a>) -> Result<RequestRef<'a>, WireError> {
    request_of(frame)?.ok_or(WireError::WrongDirection { kind: frame.kind })
}

/// Reads a frame that a server sent.
///
/// # Errors
/// [`WireError`]; the connection is closed.
pub fn decode_reply<'a>(frame: &Frame<'a>) -> Result<ReplyRef<'a>, WireError> {
    let reply = reply_of(frame)?.ok_or(WireError::WrongDirection { kind: frame.kind })?;
    if let ReplyRef::ScanPage(page) = reply
        && !page.is_consistent()
    {
        return Err(WireError::Malformed {
            kind: frame.kind,
            bytes: frame.payload.len(),
        });
    }
    Ok(reply)
}

macro_rules! kind_of {
    ($($type:ty => $kind:ident,)*) => {
        $(impl Message for $type {
            const KIND: Kind = Kind::$kind;
        })*
    };
}

kind_of! {
    request::Hello<'_> => Hello,
    request::Get<'_> => Get,
    request::Put<'_> => Put,
    request::Write<'_> => Write,
    request::Modify<'_> => Modify,
    request::Scan<'_> => Scan,
    request::ScanCredit => ScanCredit,
    request::ScanCancel => ScanCancel,
    request::RangeMap => RangeMap,
    request::Split<'_> => Split,
    request::Move => Move,
    request::Status => Status,
    request::Echo<'_> => Echo,
    request::DiskWrite => DiskWrite,
    request::Place<'_> => Place,
    request::Explain => Explain,
    request::Merge => Merge,
    request::Stand => Stand,
    request::SetPolicy<'_> => SetPolicy,
    request::Policies => Policies,
    request::Transact<'_> => Transact,
    peer::PeerHello => PeerHello,
    peer::Train<'_> => Train,
    peer::Transfer<'_> => Transfer,
    peer::Roster<'_> => Roster,
    peer::Placing<'_> => Placing,
    peer::Closed<'_> => Closed,
    peer::Newest<'_> => Newest,
    reply::HelloReply<'_> => HelloReply,
    reply::GetReply<'_> => GetReply,
    reply::StaleReply<'_> => StaleReply,
    reply::WriteReply => WriteReply,
    reply::ConditionFailed<'_> => ConditionFailed,
    reply::ModifyReply<'_> => ModifyReply,
    reply::RangeMapReply<'_> => RangeMapReply,
    reply::SplitReply => SplitReply,
    reply::MoveReply => MoveReply,
    reply::StatusReply<'_> => StatusReply,
    reply::EchoReply<'_> => EchoReply,
    reply::DiskWriteReply => DiskWriteReply,
    reply::MergeReply => MergeReply,
    reply::PlaceReply<'_> => PlaceReply,
    reply::ExplainReply<'_> => ExplainReply,
    reply::StandReply => StandReply,
    reply::SetPolicyReply<'_> => SetPolicyReply,
    reply::PoliciesReply<'_> => PoliciesReply,
    reply::TransactReply<'_> => TransactReply,
    reply::ErrorReply<'_> => ErrorReply,
}

impl Message for reply::ScanPage<'_> {
    const KIND: Kind = Kind::ScanPage;

    fn is_last(&self) -> bool {
        self.done
    }
}
