//! Whether to try again. Pure: elapsed time comes in as an argument.
//!
//! | the try ended with | a read | a write |
//! |---|---|---|
//! | not sent | again | again |
//! | connection lost after sending | again | again, same number; at the deadline *ambiguous* |
//! | no answer for a while, and other servers are known | again, elsewhere | again, elsewhere, same number; at the deadline *ambiguous* |
//! | no answer until the deadline | deadline exceeded | *ambiguous* |
//! | refused: another node leads the range | again, there | again, there, same number |
//! | refused, retryable | again, after the server's advice | again, same number |
//! | refused for good | the refusal | the refusal; *ambiguous* if a try was lost, unless the request itself is wrong |
//!
//! "Again" is at once where another server can be asked that was not asked since the last pause (`routing` says so), and
//! after a pause otherwise. A refusal that names another leader ends no doubt: an earlier try may have been applied.
//!
//! Once a try of a write was lost, only an answer to a later try that speaks for all of them ends the doubt: applied, because the
//! range remembers numbers, or a request that no node would have carried out. That a condition does not hold, since the lost try may
//! still arrive, when it holds; that the number is forgotten, that a split lies between the keys now, or that this node's disk or time failed, says nothing about the lost try.

use crate::request::Refusal;
use crate::{Error, Options};
use base::Prng;
use core::time::Duration;
use wire::Code;

/// How one try ended, other than by an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing of it was sent.
    NotSent(Error),
    /// It was sent, or may have been, and the connection ended or the server was given up on.
    Lost(Error),
    /// It was sent, and time ran out.
    TimedOut,
    /// The server refused.
    Refused(Refusal),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after this pause; look at the range map first if it is older than the version given.
    Again { pause: Duration, range_map_version: u64 },
    /// Give up.
    End(Error),
}

/// The tries of one call.
#[derive(Debug)]
pub(crate) struct Retry {
    is_write: bool,
    deadline: Duration,
    backoff_min: Duration,
    backoff_max: Duration,
    backoff: Duration,
    /// A try of a write was lost: it may have been applied.
    in_doubt: bool,
    /// A try of a write had no answer: it may still be on its way to where it is done.
    may_arrive: bool,
    last: Option<Error>,
}

impl Retry {
    pub(crate) fn new(options: &Options, is_write: bool) -> Self {
        Self {
            is_write,
            deadline: options.deadline,
            backoff_min: options.backoff_min,
            backoff_max: options.backoff_max,
            backoff: options.backoff_min,
            in_doubt: false,
            may_arrive: false,
            last: None,
        }
    }

    /// The milliseconds that the server gets for a try that starts now: a little less than is left, so that its own
    /// "deadline exceeded" arrives in time to tell that a write was not applied.
    pub(crate) fn server_deadline_ms(&self, elapsed: Duration) -> u32 {
        let left = self.deadline.saturating_sub(elapsed);
        let reserve = (left / 10).min(Duration::from_millis(100));
        u32::try_from((left - reserve).as_millis())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Progress was made: the clock of pauses starts anew. For scans, after each page.
    pub(crate) fn reset(&mut self) {
        self.backoff = self.backoff_min;
        self.last = None;
    }

    /// Decides after a failed try. `elsewhere` says that the next one goes to a server that was not asked since the last
    /// pause: then there is nothing to wait for.
    pub(crate) fn on_failure(
        &mut self,
        failure: Failure,
        elsewhere: bool,
        elapsed: Duration,
        prng: &mut Prng,
    ) -> Next {
        let mut advice = Duration::ZERO;
        let mut range_map_version = 0;
        match failure {
            // A try that the deadline cut short says less than what was found before.
            Failure::NotSent(_) if elapsed >= self.deadline && self.last.is_some() => {}
            Failure::NotSent(error) => self.last = Some(error),
            Failure::Lost(error) => {
                self.in_doubt |= self.is_write;
                self.may_arrive |= self.is_write;
                self.last = Some(error);
            }
            Failure::TimedOut => {
                self.in_doubt |= self.is_write;
                return Next::End(self.give_up());
            }
            Failure::Refused(refusal) => {
                let known = Code::from_number(refusal.code);
                if self.is_write && known == Some(Code::Ambiguous) {
                    self.in_doubt = true;
                } else if !refusal.retryable && known != Some(Code::WrongShard) {
                    if self.in_doubt && !known.is_some_and(is_about_the_request) {
                        self.last = Some(refusal.error);
                        return Next::End(self.give_up());
                    }
                    return Next::End(refusal.error);
                }
                advice = Duration::from_millis(u64::from(refusal.retry_after_ms));
                range_map_version = refusal.range_map_version;
                self.last = Some(refusal.error);
            }
        }
        let pause = if elsewhere {
            Duration::ZERO
        } else {
            // Half of the pause is drawn, so that clients that failed together do not come back together.
            let drawn = self.backoff.mul_f64(0.5 + prng.unit() / 2.0);
            self.backoff = (self.backoff * 2).min(self.backoff_max);
            drawn.max(advice)
        };
        if elapsed + pause >= self.deadline {
            return Next::End(self.give_up());
        }
        Next::Again {
            pause,
            range_map_version,
        }
    }

    /// A condition did not hold for this try: the error of the call, if an earlier one may still be applied. One that a leader gave
    /// up is applied by now where this one was looked at, or never.
    pub(crate) fn on_condition_failed(&self) -> Option<Error> {
        self.may_arrive.then(|| {
            let cause = "a try was lost, and a condition does not hold for a later one".to_owned();
            Error::Ambiguous {
                after: self.deadline,
                cause,
            }
        })
    }

    fn give_up(&mut self) -> Error {
        let last = self.last.take();
        if self.in_doubt {
            let cause = last.map_or_else(|| "no answer in time".to_owned(), |last| last.to_string());
            return Error::Ambiguous {
                after: self.deadline,
                cause,
            };
        }
        match last {
            // More telling than "too late": the server was never reached, keeps refusing, or somebody is in the way.
            Some(error @ (Error::Unavailable { .. } | Error::Server { .. } | Error::Conflict(_))) => error,
            last => Error::DeadlineExceeded {
                after: self.deadline,
                last: last.map(Box::new),
            },
        }
    }
}

/// Whether every node would refuse the same request with this code, whatever its ranges are and were.
fn is_about_the_request(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidRequest
            | Code::KeyTooLong
            | Code::ValueTooLong
            | Code::BatchTooLarge
            | Code::EmptyKey
            | Code::InvalidSpan
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Failure {
        Failure::Lost(Error::Unavailable {
            address: "x".to_owned(),
            cause: "reset".to_owned(),
        })
    }

    fn refused(code: Code, retryable: bool) -> Failure {
        let error = Error::Server {
            code: code.number(),
            message: String::new(),
            retryable,
            range: None,
            key: None,
        };
        let (code, range_map_version) = (code.number(), 7);
        Failure::Refused(Refusal {
            error,
            code,
            retryable,
            retry_after_ms: 3,
            range_map_version,
            range: None,
            leader: None,
        })
    }

    /// Feeds failures at the given milliseconds and says how it ended.
    fn run(is_write: bool, failures: Vec<(u64, Failure)>) -> Result<usize, Code> {
        let mut retry = Retry::new(&Options::default(), is_write);
        let mut prng = Prng::new(1);
        let count = failures.len();
        for (ms, failure) in failures {
            match retry.on_failure(failure, false, Duration::from_millis(ms), &mut prng) {
                Next::Again { .. } => {}
                Next::End(error) => return Err(error.code()),
            }
        }
        Ok(count)
    }

    #[test]
    fn the_table_of_the_module_documentation() {
        let not_sent = || {
            Failure::NotSent(Error::Unavailable {
                address: "x".to_owned(),
                cause: "refused".to_owned(),
            })
        };
        for is_write in [false, true] {
            assert_eq!(
                run(
                    is_write,
                    vec![
                        (0, not_sent()),
                        (10, lost()),
                        (20, refused(Code::Overloaded, true))
                    ]
                ),
                Ok(3)
            );
            assert_eq!(
                run(is_write, vec![(0, refused(Code::KeyTooLong, false))]),
                Err(Code::KeyTooLong)
            );
            assert_eq!(run(is_write, vec![(0, refused(Code::WrongShard, false))]), Ok(1));
            // Never sent: definitely not applied.
            assert_eq!(run(is_write, vec![(4999, not_sent())]), Err(Code::Unavailable));
            assert_eq!(
                run(is_write, vec![(4999, refused(Code::Overloaded, true))]),
                Err(Code::Overloaded)
            );
        }
        assert_eq!(
            run(false, vec![(5000, Failure::TimedOut)]),
            Err(Code::DeadlineExceeded)
        );
        assert_eq!(run(true, vec![(5000, Failure::TimedOut)]), Err(Code::Ambiguous));
        assert_eq!(run(false, vec![(4999, lost())]), Err(Code::Unavailable));
        assert_eq!(run(true, vec![(4999, lost())]), Err(Code::Ambiguous));
        // A later refusal for good speaks for the lost try too when it is about the request, and only then.
        assert_eq!(
            run(true, vec![(0, lost()), (9, refused(Code::KeyTooLong, false))]),
            Err(Code::KeyTooLong)
        );
        for code in [
            Code::SequenceReused,
            Code::BatchSpansRanges,
            Code::DiskFailed,
            Code::DeadlineExceeded,
            Code::VersionUnsupported,
        ] {
            assert_eq!(
                run(true, vec![(0, lost()), (9, refused(code, false))]),
                Err(Code::Ambiguous)
            );
            assert_eq!(
                run(false, vec![(0, lost()), (9, refused(code, false))]),
                Err(code)
            );
            assert_eq!(run(true, vec![(0, refused(code, false))]), Err(code));
        }
        // The doubt stays through retryable refusals.
        assert_eq!(
            run(true, vec![(0, lost()), (4999, refused(Code::Overloaded, true))]),
            Err(Code::Ambiguous)
        );
        assert_eq!(
            run(true, vec![(4999, refused(Code::Ambiguous, true))]),
            Err(Code::Ambiguous)
        );
        // So it does through refusals of nodes that do not lead: the one that did may have applied it.
        assert_eq!(
            run(true, vec![(0, lost()), (4999, refused(Code::NotLeader, true))]),
            Err(Code::Ambiguous)
        );
        for is_write in [false, true] {
            assert_eq!(
                run(is_write, vec![(4999, refused(Code::NotLeader, true))]),
                Err(Code::NotLeader)
            );
        }
    }

    #[test]
    fn a_condition_that_fails_ends_no_doubt_about_what_may_arrive() {
        let after = |failure| {
            let mut retry = Retry::new(&Options::default(), true);
            retry.on_failure(failure, false, Duration::ZERO, &mut Prng::new(1));
            retry.on_condition_failed().map(|error| error.code())
        };
        assert_eq!(after(lost()), Some(Code::Ambiguous));
        assert_eq!(after(refused(Code::Ambiguous, true)), None);
        assert_eq!(after(refused(Code::Overloaded, true)), None);
    }

    #[test]
    fn another_server_is_asked_at_once_while_there_is_time() {
        let mut retry = Retry::new(&Options::default(), true);
        let mut prng = Prng::new(3);
        let mut next = |elsewhere, ms| {
            let next = retry.on_failure(
                refused(Code::NotLeader, true),
                elsewhere,
                Duration::from_millis(ms),
                &mut prng,
            );
            match next {
                Next::Again { pause, .. } => Ok(pause),
                Next::End(error) => Err(error.code()),
            }
        };
        for _ in 0..10 {
            assert_eq!(next(true, 1), Ok(Duration::ZERO));
        }
        let pause = next(false, 1).unwrap();
        assert!(
            pause <= Duration::from_millis(3),
            "going elsewhere made no pause longer: {pause:?}"
        );
        assert_eq!(next(true, 4999), Ok(Duration::ZERO));
        assert_eq!(next(true, 5000), Err(Code::NotLeader));
    }

    #[test]
    fn pauses_grow_to_their_bound_and_follow_advice() {
        let options = Options {
            deadline: Duration::from_secs(3600),
            ..Options::default()
        };
        let mut retry = Retry::new(&options, false);
        let mut prng = Prng::new(2);
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let Next::Again { pause, .. } = retry.on_failure(lost(), false, Duration::ZERO, &mut prng) else {
                panic!()
            };
            longest = longest.max(pause);
        }
        assert!(
            longest > options.backoff_max / 2 && longest <= options.backoff_max,
            "{longest:?}"
        );
        retry.reset();
        let next = retry.on_failure(refused(Code::Overloaded, true), false, Duration::ZERO, &mut prng);
        assert_eq!(
            next,
            Next::Again {
                pause: Duration::from_millis(3),
                range_map_version: 7
            }
        );
    }

    #[test]
    fn the_server_gets_a_little_less_time() {
        let retry = Retry::new(&Options::default(), false);
        assert_eq!(retry.server_deadline_ms(Duration::ZERO), 4900);
        assert_eq!(retry.server_deadline_ms(Duration::from_millis(4990)), 9);
        assert_eq!(retry.server_deadline_ms(Duration::from_secs(9)), 1);
    }
}
