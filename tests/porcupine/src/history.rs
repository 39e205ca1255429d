//! How histories are read is the same as in `fault-rounds`; who judges them is not.

#![allow(dead_code, reason = "a part is used here")]

#[path = "../../process/src/history/edn.rs"]
pub mod edn;
#[path = "../../process/src/history/operation.rs"]
pub mod operation;
