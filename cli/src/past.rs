//! The moment of the past that a read shows, on the command line.

use crate::args::parse_duration;
use base::Timestamp;
use clap::Args;
use core::time::Duration;
use corelane::Staleness;

/// Which moment is read: now, unless one of these says otherwise.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PastArgs {
    /// What there was at this time: seconds since 1970, as in `SECONDS.NANOS`
    #[arg(long, value_name = "TIME", conflicts_with_all = ["stale", "at_most_stale"])]
    pub(crate) at: Option<Timestamp>,
    /// What there was so long ago, from the nearest node that has it: `5s`, `2m`
    #[arg(long, value_name = "AGE", value_parser = parse_duration, conflicts_with = "at_most_stale")]
    stale: Option<Duration>,
    /// The newest that the nearest node can show without asking anybody, and at most so old: `5s`, `2m`
    #[arg(long, value_name = "AGE", value_parser = parse_duration)]
    at_most_stale: Option<Duration>,
}

impl PastArgs {
    /// How old what is shown may be, where it is named by its age.
    pub(crate) fn staleness(self) -> Option<Staleness> {
        let exact = self.stale.map(Staleness::Exact);
        exact.or(self.at_most_stale.map(Staleness::AtMost))
    }

    /// The scan, of that moment.
    pub(crate) fn of(self, scan: corelane::Scan) -> corelane::Scan {
        match (self.at, self.staleness()) {
            (Some(at), _) => scan.at(at),
            (None, Some(staleness)) => scan.stale(staleness),
            (None, None) => scan,
        }
    }
}
