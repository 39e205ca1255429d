//! Disks: the live one of a [`Sim`](crate::Sim), and disk images for the enumeration of crash points.
//!
//! ```text
//!   SimFile ─► Device: latency, faults, rules ─┐
//!                                              ├─► Store: what is seen, durable, unsettled ─► DiskImage
//!   ImageFile ─► rules ────────────────────────┘        every change is a Step ─► DiskTrace ─► Boundary ─► images
//! ```
//!
//! Fault model. What a disk promises is in `env::disk`; beyond that, with the rates of [`DiskConfig`](crate::DiskConfig):
//!
//! | fault | when | must the system survive it |
//! |---|---|---|
//! | lost unsynced write | crash; any subset of what is in flight or not synced | yes, without loss of what was promised |
//! | torn, reordered write | crash; any subset of its 512-byte sectors | yes |
//! | length without data | crash; a write that grew a file left zeros | yes |
//! | undone name | crash; any subset of create, rename, remove, link before `sync_dir` | yes |
//! | kill, then crash | a killed program's writes and names are seen, and are lost, torn or undone later, unless the next program syncs them | yes |
//! | slow operation | any time | yes |
//! | garbage | crash; sectors that an unsynced write did not reach; off unless asked for | detect |
//! | read error | any time | name it; the data is unknown |
//! | unreadable block | when a test asks for it, until it is written again or its file goes | name it; repair from a peer |
//! | write error, sync error | any time; a write is there in part, a sync settled nothing | stop; never retry |
//! | full disk | a write that grows a file beyond the capacity; nothing is written | stop, or refuse and go on |
//! | bit rot | found by a read; one bit, for good | detect; repair from a peer |
//! | lost write | acknowledged, and not there | detect |
//! | misdirected write | acknowledged, and over another place | detect |
//! | misdirected, stale read | another place, or what was there before | detect |
//!
//! *Never happens:* a sector that is half one write and half another; a durable write undone by a crash; loss of what was
//! synced; a rename within one directory that a crash leaves half done (between two directories each side has its own
//! `sync_dir`); two names' changes applied out of their order.
//!
//! Simplifications: names change, and files grow or are cut by `set_len`, when the operation is submitted, so a crash
//! before its completion may find it done. `create` over an existing file makes a new one under that name: until its
//! directory is synced a crash may bring the old one back whole. Space is counted by length, holes included.

pub(crate) mod buf;
pub(crate) mod content;
pub(crate) mod device;
pub(crate) mod file;
pub(crate) mod image;
mod medium;
mod names;
pub(crate) mod request;
pub(crate) mod rule;
mod spoiled;
pub(crate) mod store;
pub(crate) mod trace;

pub use buf::SimBuf;
pub use content::SECTOR_BYTES;
pub use file::{SimDisk, SimFile};
pub use image::DiskImage;
pub use rule::DiskRule;
pub use trace::{Boundary, DiskTrace, SUBSET_CHANGES_MAX};
