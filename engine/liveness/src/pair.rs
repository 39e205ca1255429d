//! One pair: what this shard asks of a peer, what it grants to it, and when it speaks.

use crate::config::Config;
use crate::message::{Answer, Echo, Epoch, Message, Peer, Promise, Session};
use crate::offset::Offset;
use crate::ready::Support;
use base::planted_bug;

/// How a message stands to those that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A newer one came already.
    Late,
    /// It is the newest.
    Newest,
    /// It is the newest, and the peer was silent before.
    AfterSilence,
}

/// One peer, seen from this shard.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) peer: Peer,
    /// This side's.
    pub(crate) session: Session,
    /// The peer's newest.
    heard: Session,
    /// The newest message of that session.
    echo: Option<Echo>,
    pub(crate) offset: Offset,
    /// By `offset`, the clocks are too far apart.
    pub(crate) outside: bool,

    /// What support is asked for at. `None`: a new one is due, since the last one has ended.
    pub(crate) epoch: Option<Epoch>,
    /// The latest time asked for.
    asked_ns: u64,
    /// Until when the peer supports this shard at `epoch`, by the peer's clock; zero before the first promise.
    received_ns: u64,

    /// What the peer was promised, until it has expired.
    pub(crate) given: Option<Promise>,
    /// No lower epoch of the peer is supported again in this session.
    demanded: Epoch,
    /// The peer asks for less than that.
    refuses: bool,

    /// When the last message left.
    sent_ns: Option<u64>,
    /// When the next one is due.
    pub(crate) next_ns: u64,
    /// It is due because the peer waits for it.
    urgent: bool,
    /// Between messages, while the peer is silent.
    interval_ns: u64,

    /// What the caller knows.
    pub(crate) reported: Support,
    pub(crate) reported_outside: bool,
    /// Removed; kept until what it was promised has expired.
    pub(crate) leaves: bool,
}

impl Pair {
    pub(crate) fn new(peer: Peer, session: Session, config: &Config, now: u64) -> Self {
        Self {
            peer,
            session,
            heard: Session::NONE,
            echo: None,
            offset: Offset::UNKNOWN,
            outside: false,
            epoch: None,
            asked_ns: 0,
            received_ns: 0,
            given: None,
            demanded: Epoch(0),
            refuses: false,
            sent_ns: None,
            next_ns: now,
            urgent: false,
            interval_ns: config.beat_ns,
            reported: Support::default(),
            reported_outside: false,
            leaves: false,
        }
    }

    /// Begins again with a peer that was removed before its promise expired; the promise goes on.
    pub(crate) fn renew(&mut self, session: Session, config: &Config, now: u64) {
        let old = core::mem::replace(self, Self::new(self.peer, session, config, now));
        self.given = old.given;
        self.demanded = old.demanded;
        self.reported = old.reported;
        self.reported_outside = old.reported_outside;
    }

    pub(crate) fn heard(&self) -> Session {
        self.heard
    }

    /// The peer remembers from a later time than it did: what it had promised before is over.
    pub(crate) fn meet(&mut self, session: Session) {
        self.heard = session;
        self.echo = None;
        self.offset = Offset::UNKNOWN;
        self.outside = false;
        self.refuses = false;
        if !planted_bug!("liveness-new-session-old-epoch") || self.epoch.is_none() {
            self.end_epoch();
        }
    }

    fn end_epoch(&mut self) {
        self.epoch = None;
        self.asked_ns = 0;
        self.received_ns = 0;
    }

    /// Withdraws support that has expired.
    pub(crate) fn expire(&mut self, config: &Config, now: u64) {
        let early = if planted_bug!("liveness-withdraws-early") {
            config.clock_offset_ns_max
        } else {
            0
        };
        if let Some(promise) = self.given
            && now > promise.until_ns.saturating_sub(early)
        {
            self.given = None;
            if !planted_bug!("liveness-epoch-comes-back") {
                // Neither the first nor the last number is an epoch, so this one is higher.
                self.demanded = Epoch(promise.epoch.0.saturating_add(1));
            }
        }
    }

    /// Takes note of a message of the current session.
    pub(crate) fn hear(&mut self, message: &Message, config: &Config, now: u64) -> Heard {
        let silent = self.is_silent(config, now);
        if self.echo.is_some_and(|echo| message.clock_ns <= echo.clock_ns) {
            return Heard::Late;
        }
        self.echo = Some(Echo {
            clock_ns: message.clock_ns,
            came_ns: now,
        });
        let mut measured = *message;
        measured.echo = measured.echo.filter(|_| message.heard == self.session);
        self.offset = Offset::measure(&measured, config.support_ns, now);
        self.outside = self.offset.exceeds(config.clock_offset_ns_max);
        self.interval_ns = config.beat_ns;
        if silent {
            Heard::AfterSilence
        } else {
            Heard::Newest
        }
    }

    fn is_silent(&self, config: &Config, now: u64) -> bool {
        let recent = |echo: Echo| now.saturating_sub(echo.came_ns) <= config.support_ns;
        !self.echo.is_some_and(recent)
    }

    /// Whether the measure of the peer's clock is of now.
    pub(crate) fn is_measured(&self, config: &Config, now: u64) -> bool {
        !self.is_silent(config, now)
    }

    /// What the peer says to what this side asked. Returns whether a new epoch is due.
    pub(crate) fn answered(&mut self, answer: Answer) -> bool {
        let Some(epoch) = self.epoch else {
            return false;
        };
        match answer {
            Answer::Granted(promise) => {
                // An answer to an earlier epoch may have been under way for long.
                if promise.epoch == epoch || planted_bug!("liveness-any-epoch-counts") {
                    // Never more than was asked for, whatever the peer says.
                    self.received_ns = self.received_ns.max(promise.until_ns.min(self.asked_ns));
                }
                false
            }
            Answer::Refused { epoch: least } => {
                let ends = least > epoch;
                if ends {
                    self.end_epoch();
                }
                ends
            }
        }
    }

    /// Whether the sender heard this side of late. One that is deaf is as good as dead: as long as it is supported nobody can
    /// take its place.
    pub(crate) fn is_heard_by(&self, message: &Message, config: &Config, now: u64) -> bool {
        let recent = |echo: Echo| now.saturating_sub(echo.clock_ns) <= config.support_ns;
        message.echo.is_some_and(recent) || planted_bug!("liveness-supports-the-deaf")
    }

    /// What the peer asks. Returns whether the answer is news.
    pub(crate) fn asked(&mut self, ask: Promise, config: &Config, now: u64) -> bool {
        if ask.epoch < self.demanded {
            return !core::mem::replace(&mut self.refuses, true);
        }
        self.refuses = false;
        let most = if planted_bug!("liveness-promise-unbounded") {
            u64::MAX
        } else {
            // No clock within the bound asks for more; one that is wrong must not bind this shard for long.
            now.saturating_add(config.promise_ns_max())
        };
        let until_ns = ask.until_ns.min(most);
        match &mut self.given {
            Some(given) if given.epoch == ask.epoch => {
                given.until_ns = given.until_ns.max(until_ns);
                false
            }
            // A higher epoch: the peer has given up the earlier one itself.
            Some(_) | None => {
                if until_ns <= now {
                    return false;
                }
                self.given = Some(Promise {
                    epoch: ask.epoch,
                    until_ns,
                });
                self.demanded = ask.epoch;
                true
            }
        }
    }

    /// Until when support is believed, by this side's clock, that time not included.
    pub(crate) fn believed_until(&self, config: &Config) -> u64 {
        if self.outside && !planted_bug!("liveness-believes-wrong-clock") {
            return 0;
        }
        let bound = if planted_bug!("liveness-ignores-bound") {
            0
        } else {
            config.clock_offset_ns_max
        };
        // More than the bound if the peer's clock may be that far ahead: either it is outside, or messages are slow.
        let measured = u64::try_from(self.offset.high_ns).unwrap_or(0);
        let measured = if planted_bug!("liveness-ignores-measure") {
            0
        } else {
            measured
        };
        self.received_ns.saturating_sub(bound.max(measured))
    }

    /// What holds now, as the groups are told.
    pub(crate) fn support(&self, trusted: bool, now: u64) -> Support {
        let received = trusted && !self.outside && !self.leaves && now <= self.received_ns;
        Support {
            given: self.given.map(|promise| promise.epoch),
            received: self.epoch.filter(|_| received && self.received_ns > 0),
        }
    }

    /// The newest message has come. `news`: the peer waits for what this side has to say. Else the higher of the two speaks half
    /// a beat after the lower, so that no answer takes longer.
    pub(crate) fn schedule(&mut self, me: Peer, news: bool, config: &Config, now: u64) {
        let quarters = |count: u64| {
            self.sent_ns
                .map_or(now, |sent| sent.saturating_add(config.beat_ns / 4 * count))
        };
        if news {
            self.urgent = true;
            // Not at once if it has just spoken: what peers say must not make it speak without end.
            self.next_ns = self.next_ns.min(now.max(quarters(1)));
        } else if self.urgent {
            // Nor later than that.
        } else if me > self.peer {
            let half = now.saturating_add(config.beat_ns / 2);
            self.next_ns = half.clamp(quarters(2), quarters(6));
        } else {
            // It may have backed off.
            self.next_ns = self.next_ns.min(now.max(quarters(4)));
        }
    }

    /// The message that is due. `trusted`: nothing is wrong with this node's clock.
    pub(crate) fn speak(&mut self, trusted: bool, config: &Config, now: u64) -> Message {
        let silent = self.is_silent(config, now);
        if silent {
            if self.sent_ns.is_some() && !planted_bug!("liveness-never-backs-off") {
                self.interval_ns = self.interval_ns.saturating_mul(2).min(config.beat_ns_max);
            }
        } else {
            self.interval_ns = config.beat_ns;
        }
        self.urgent = false;
        self.sent_ns = Some(now);
        self.next_ns = now.saturating_add(self.interval_ns);
        let trusted = trusted && !self.outside;
        let ask = self.epoch.filter(|_| trusted && self.heard != Session::NONE);
        if ask.is_some() {
            self.asked_ns = self.asked_ns.max(now.saturating_add(config.support_ns));
        }
        let answer = match self.given {
            Some(promise) => Some(Answer::Granted(promise)),
            None if self.refuses => Some(Answer::Refused { epoch: self.demanded }),
            None => None,
        };
        Message {
            session: self.session,
            heard: self.heard,
            clock_ns: now,
            echo: self.echo,
            ask: ask.map(|epoch| Promise {
                epoch,
                until_ns: self.asked_ns,
            }),
            answer: answer.filter(|_| trusted),
        }
    }

    /// When something happens without an input. Beats only of one that may speak.
    pub(crate) fn wake_at(&self, speaks: bool) -> u64 {
        let beat = if speaks && !self.leaves {
            self.next_ns
        } else {
            u64::MAX
        };
        let given = self
            .given
            .map_or(u64::MAX, |promise| promise.until_ns.saturating_add(1));
        let received = self
            .reported
            .received
            .map_or(u64::MAX, |_| self.received_ns.saturating_add(1));
        beat.min(given).min(received)
    }

    pub(crate) fn assert_invariants(&self, config: &Config, latest: u64) {
        if let Some(promise) = self.given {
            assert!(
                promise.epoch >= self.demanded,
                "{}: supported at {} though {} is demanded",
                self.peer,
                promise.epoch,
                self.demanded
            );
            assert!(promise.until_ns <= latest.saturating_add(config.promise_ns_max()));
        }
        assert!(self.received_ns <= self.asked_ns);
        assert!(self.asked_ns <= latest.saturating_add(config.support_ns));
        assert!(self.epoch.is_some() || self.received_ns == 0);
        assert!(self.next_ns <= latest.saturating_add(config.beat_ns_max.max(config.beat_ns * 2)));
    }
}
