//! Reads of a moment that was named by its age: what they show is not older than that, as far as clocks agree.

use crate::history::{Action, Call, Outcome};
use base::api::ReadAt;
use core::time::Duration;

/// Notes every read that showed an older moment than it was to. Two clocks differ by `bound_ns` at most.
pub fn check(bound_ns: u64, calls: &[Call], wrong: &mut Vec<String>) {
    for (number, call) in calls.iter().enumerate() {
        let (age, read_ts) = match (&call.action, &call.outcome) {
            (Action::Get(_, ReadAt::Ago(age) | ReadAt::Within(age)), Outcome::Past(_, _, read_ts))
            | (
                Action::Scan {
                    at: ReadAt::Ago(age) | ReadAt::Within(age),
                    ..
                },
                Outcome::Rows { read_ts, .. },
            ) => (*age, *read_ts),
            _ => continue,
        };
        // Ages are told in milliseconds.
        let age = age + Duration::from_millis(1);
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let oldest_ns = call.wall_ns.saturating_sub(age_ns).saturating_sub(bound_ns);
        if read_ts.wall_ns < oldest_ns {
            wrong.push(format!(
                "call {number} began at {} and asked for {:?}, and was read at {read_ts}",
                call.wall_ns, call.action
            ));
        }
    }
}
