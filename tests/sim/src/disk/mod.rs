//! Disks.

pub(crate) mod buf;
pub(crate) mod content;
pub(crate) mod device;
pub(crate) mod file;
pub(crate) mod image;
pub(crate) mod rule;
pub(crate) mod store;
pub(crate) mod trace;

pub use buf::SimBuf;
pub use content::SECTOR_BYTES;
pub use file::{SimDisk, SimFile};
pub use image::DiskImage;
pub use rule::DiskRule;
pub use trace::{Boundary, DiskTrace, SUBSET_CHANGES_MAX};
