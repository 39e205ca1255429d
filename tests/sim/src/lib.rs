//! The seam under one seed.

pub mod disk;
pub mod image;

pub use disk::{Boundary, DiskImage, DiskRule, DiskTrace, SimBuf};
pub use image::{ImageEnv, ImageMachine};
