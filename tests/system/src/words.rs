//! Somebody who sets policies while everything else goes wrong, and whether what was answered is remembered.
//!
//! Each word has a number of its own, in the bytes at which ranges are split: far more than any range has. In calm weather the policy of
//! each prefix must be one that was said last: none of which it was known, when a later one that was answered was begun, that it had
//! been answered. Then all policies are removed, so that what is checked afterwards is as without them.

use crate::client::connection::{Connection, Next};
use crate::client::reply::Reply;
use crate::history::Keys;
use base::{ClientId, Prng};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::{Address, Clock, Env, Instant};
use sim::SimEnv;
use std::rc::Rc;
use wire::{Code, Message, request};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tries of one word before it is given up.
const TRIES_MAX: u32 = 12;
/// Words in all.
const WORDS_MAX: usize = 60;
/// Numbers of words begin here.
const NUMBERS_FROM: u64 = 1 << 40;

/// A policy that was, or was to be, set.
#[derive(Debug, Clone)]
struct Said {
    prefix: Vec<u8>,
    began: Instant,
    /// When it was answered, if it was.
    ended: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Words {
    env: SimEnv,
    addresses: Vec<Address>,
    keys: Keys,
    /// Replicas that policies wish for, at least.
    replicas_min: u32,
    prng: RefCell<Prng>,
    said: RefCell<Vec<Said>>,
    stopped: Cell<bool>,
    ended: Cell<bool>,
}

impl Words {
    /// Speaks to the nodes at these addresses, of policies with at least so many replicas.
    #[must_use]
    pub fn new(env: SimEnv, addresses: Vec<Address>, keys: Keys, replicas_min: u32, prng: Prng) -> Rc<Self> {
        Rc::new(Self {
            env,
            addresses,
            keys,
            replicas_min,
            prng: RefCell::new(prng),
            said: RefCell::default(),
            stopped: Cell::new(false),
            ended: Cell::new(false),
        })
    }

    /// Sets policies until it is stopped.
    pub async fn work(self: Rc<Self>) {
        while !self.stopped.get() && self.said.borrow().len() < WORDS_MAX {
            let pause = self.prng.borrow_mut().between(20, 4_000);
            self.env.clock().sleep(Duration::from_millis(pause)).await;
            if self.stopped.get() {
                break;
            }
            self.say().await;
        }
        self.ended.set(true);
    }

    /// Says nothing more.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    async fn say(&self) {
        let began = self.env.clock().now();
        let (prefix, replicas) = {
            let prng = &mut *self.prng.borrow_mut();
            // No split may cut a group, of which batches are written: not one whose prefix ends
            // before the next group begins, as that of `group-009` does.
            let prefix = match self.keys.groups.checked_sub(1) {
                Some(groups) if groups > 0 && prng.chance(0.7) => {
                    let group = u16::try_from(prng.below(groups.into())).expect("drawn below");
                    let group = if group % 10 == 9 { group - 1 } else { group };
                    self.keys.bytes(group * self.keys.per_group)
                }
                Some(_) | None => Vec::new(),
            };
            let all = u64::try_from(self.addresses.len()).expect("few nodes");
            let drawn = prng.between(self.replicas_min.into(), all.max(self.replicas_min.into()));
            (prefix, u32::try_from(drawn).expect("few nodes"))
        };
        let at = self.said.borrow().len();
        self.said.borrow_mut().push(Said {
            prefix: prefix.clone(),
            began,
            ended: None,
        });
        let number = NUMBERS_FROM + u64::try_from(at).expect("few words");
        if self
            .try_to_say(&prefix, Some((number, replicas)), TRIES_MAX)
            .await
        {
            base::sometimes!("system: a policy was set");
            self.said.borrow_mut()[at].ended = Some(self.env.clock().now());
        }
    }

    /// Sets a policy, or removes it. Whether that was answered.
    async fn try_to_say(&self, prefix: &[u8], what: Option<(u64, u32)>, tries_max: u32) -> bool {
        let wish = what.map(|(split_bytes, replicas)| request::PolicyWish {
            replicas,
            split_bytes,
            constraints: "",
            preferences: "",
            group: "",
        });
        let deadline_ms = 2_000;
        let set = request::SetPolicy {
            prefix,
            wish,
            deadline_ms,
        };
        matches!(self.ask(&set, tries_max).await, Some(Reply::Done))
    }

    /// Asks one node after the other until one answers.
    async fn ask<M: Message>(&self, message: &M, tries_max: u32) -> Option<Reply> {
        let mut at = self.prng.borrow_mut().index(self.addresses.len());
        for _ in 0..tries_max {
            let opened = Connection::open(&self.env, self.addresses[at], ClientId(1), None, PATIENCE).await;
            if let Ok((connection, _)) = opened {
                let next = connection.send(message).next(&self.env, PATIENCE).await;
                connection.hang_up();
                match next {
                    Next::Reply(Reply::Refused { code, .. }) => {
                        base::sometimes!(
                            "system: a placer does not know yet what was said",
                            code == Code::Overloaded
                        );
                    }
                    Next::Reply(reply) => return Some(reply),
                    Next::Closed | Next::TimedOut => {}
                }
            }
            at = (at + 1) % self.addresses.len();
            let pause = self.prng.borrow_mut().between(1, 100);
            self.env.clock().sleep(Duration::from_millis(pause)).await;
        }
        None
    }

    /// In calm weather: what is wrong with the policies. Removes them.
    pub async fn check(self: Rc<Self>) -> Vec<String> {
        while !self.ended.get() {
            self.env.clock().sleep(Duration::from_millis(10)).await;
        }
        let found = match self.policies().await {
            Ok(found) => found,
            Err(wrong) => return vec![wrong],
        };
        let mut prefixes: Vec<_> = self
            .said
            .borrow()
            .iter()
            .map(|said| said.prefix.clone())
            .collect();
        prefixes.sort();
        prefixes.dedup();
        let wrong = prefixes
            .iter()
            .filter_map(|prefix| self.contradicts(prefix, &found));
        let wrong: Vec<_> = wrong.collect();
        if !wrong.is_empty() {
            return wrong;
        }
        for prefix in &prefixes {
            if !self.try_to_say(prefix, None, u32::MAX).await {
                return vec!["a policy cannot be removed in calm weather".to_owned()];
            }
        }
        match self.policies().await {
            Ok(left) if left.is_empty() => Vec::new(),
            Ok(left) => vec![format!("policies were removed and are there: {left:?}")],
            Err(wrong) => vec![wrong],
        }
    }

    async fn policies(&self) -> Result<Vec<(Vec<u8>, u64)>, String> {
        let deadline_ms = 2_000;
        match self.ask(&request::Policies { deadline_ms }, u32::MAX).await {
            Some(Reply::Policies(found)) => Ok(found),
            other => Err(format!("a request for policies was answered by {other:?}")),
        }
    }

    /// Why the policy that was found for a prefix cannot be the last one.
    fn contradicts(&self, prefix: &[u8], found: &[(Vec<u8>, u64)]) -> Option<String> {
        let said = self.said.borrow();
        let found = found.iter().find(|(other, _)| other == prefix);
        let at = found.map(|(_, number)| usize::try_from(number.wrapping_sub(NUMBERS_FROM)));
        let last = match at {
            None => None,
            Some(Ok(at)) if said.get(at).is_some_and(|said| said.prefix == prefix) => Some(&said[at]),
            Some(_) => return Some(format!("nobody has said {found:?}")),
        };
        let lost = said
            .iter()
            .filter(|other| other.prefix == prefix && other.ended.is_some());
        let lost = lost
            .filter(|other| last.is_none_or(|last| last.ended.is_some_and(|ended| ended < other.began)))
            .count();
        (lost > 0).then(|| {
            format!(
                "policy {found:?} of {} is older than {lost} that were answered for: {said:?}",
                prefix.escape_ascii()
            )
        })
    }
}
