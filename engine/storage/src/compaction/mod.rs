//! Merges: fewer tables, less garbage. `picker` chooses (pure), `job` carries it out.

pub(crate) mod job;
pub(crate) mod picker;
