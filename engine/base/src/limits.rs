//! Limits that every layer shares. A limit that only one crate needs lives there.

/// A key's bytes: 16 KiB.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// A value's bytes: 16 MiB.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Keys and values of one atomic batch, together: 64 MiB.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Operations of one atomic batch.
pub const BATCH_OPS_MAX: usize = 1 << 20;
/// A frame's payload: a full batch and what surrounds it.
pub const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + (32 << 20);
/// Rows and bytes of one page of a scan.
pub const SCAN_ROWS_MAX: usize = 65_536;
/// Keys and values of one page of a scan, unless a single row is larger: 4 MiB.
pub const SCAN_BYTES_MAX: usize = 4 << 20;
/// Shards of one node.
pub const SHARDS_MAX: usize = 256;
/// Writes that one client may have unanswered at one range; results of older ones are forgotten.
pub const SESSION_WRITES_MAX: usize = 1024;
/// The unit of durable I/O: offsets, lengths and buffers of `env::File` are multiples of it.
pub const BLOCK_BYTES: usize = 4096;

const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);
