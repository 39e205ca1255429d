//! The wire format: frames, messages, error codes. Pure: bytes in, borrowed values out, and back.
//!
//! ```text
//!   socket ──► FrameReader ──► Frame { kind, request, payload } ──► decode_request ──► RequestRef (in place)
//!   socket ◄── Outbox      ◄── push(request, &GetReply { … })
//! ```
//!
//! A frame is a 16-byte header and a payload archived by rkyv ([`frame`], `docs/formats.md`). The header carries what must
//! be known before the payload can be trusted: version, kind, length and checksum, because an archive has no schema
//! evolution. A changed message is a new kind beside the old one.
//!
//! Invariants:
//! - No byte of a peer is used before it was checked: header, checksum, padding, then the archive's own structure.
//! - Decoding does not copy: payloads are read where they were received.
//! - Memory held for a peer is bounded by a limit that the owner gives, and grows only with bytes that have arrived.
//! - Nothing here waits, reads a clock or performs I/O.

mod closed;
pub mod code;
pub mod convert;
pub mod decode;
pub mod frame;
mod newest;
mod op;
pub mod outbox;
pub mod page;
pub mod peer;
mod placing;
pub mod policy;
pub mod reader;
pub mod reply;
pub mod request;
mod train;
mod transfer;

pub use code::Code;
pub use decode::{PeerRef, ReplyRef, RequestRef, WireError, decode_peer, decode_reply, decode_request};
pub use frame::{Frame, FrameError, Kind};
pub use outbox::{EncodeError, Message, Outbox};
pub use page::{PageBuilder, Row};
pub use reader::{FrameBuffer, FrameReader};
