//! Sorted tables: immutable files of versions.
//!
//! ```text
//!   ┌──────┬──────┬───┬───────────┬──────┬───┬───────────┬────────────┬────────────┬───────────┬─────────┬────────┐
//!   │ data │ data │ … │ partition │ data │ … │ partition │ tombstones │ properties │ top index │ 0 … 0   │ footer │
//!   └──────┴──────┴───┴───────────┴──────┴───┴───────────┴────────────┴────────────┴───────────┴─────────┴────────┘
//!      ▲──────┴──────────┘ filter and index                                  of the partitions       4 KiB multiple
//! ```
//!
//! A *partition* is the filter and the index of the data blocks before it: a point read needs one partition and one data
//! block. What is always needed (tombstones, properties, the index of the partitions) stays in memory while the table is
//! open; the rest goes through the cache. `docs/formats.md`, "Tables", lays out every byte.
//!
//! Invariants:
//! - Blocks follow each other without gaps; the padding before the footer is zero: no bit of a table is unchecked.
//! - A block's checksum covers the table's unique id and the block's offset: a block read from elsewhere is damage.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod codec;
pub(crate) mod filter;
pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod stream;
pub(crate) mod writer;
