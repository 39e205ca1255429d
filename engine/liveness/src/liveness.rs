//! The detector of one shard: all its pairs, and what they have in common.

use crate::config::Config;
use crate::message::{Epoch, Message, Peer, Session};
use crate::pair::{Heard, Pair};
use crate::ready::{Durable, Event, Ready, Support};
use base::planted_bug;

/// Why a peer was not added. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// More than [`Config::peers_max`].
    #[error("{0} peers are known, which is the limit")]
    Full(usize),
    /// It is there.
    #[error("{0} is a peer already")]
    Known(Peer),
    /// A shard is alive as long as it can ask.
    #[error("{0} is this shard itself")]
    Myself(Peer),
    /// This start has used up its sessions: only a restart helps.
    #[error("this start has no more sessions to give")]
    Exhausted,
}

/// Why a message was not taken. Nothing has changed, except that expired support was withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Not added, or removed: to be expected for a while around a change.
    #[error("{0} is not a peer")]
    Unknown(Peer),
    /// No detector sends it: drop the connection.
    #[error("{0} sent numbers that no detector chooses")]
    Malformed(Peer),
    /// The peer has heard a session of this shard that begins later than the present one: this shard has lost what it knew.
    /// Until it is restarted with a higher incarnation, the peer takes it for a ghost.
    #[error("{peer} has heard of incarnation {incarnation} of this shard, which began later than this one")]
    Forgotten {
        /// Who knows.
        peer: Peer,
        /// The least that [`Durable::incarnation`] must be at the next start.
        incarnation: u32,
    },
}

/// The failure detector of one shard: see the crate's page.
#[derive(Debug)]
pub struct Liveness {
    me: Peer,
    config: Config,
    /// Sorted by name.
    pairs: Vec<Pair>,
    /// What is on disk, or being written.
    durable: Durable,
    /// To be handed out.
    write: Option<Durable>,
    /// The incarnation is on disk: before, nothing of it may be seen outside.
    persisted: bool,
    /// From when on this shard may take part, by its clock.
    start_ns: u64,
    /// The highest session or epoch of this start. Both come from one sequence, so neither is ever used twice.
    number: u64,
    /// The latest clock seen.
    latest_ns: u64,
    /// This node's clock is wrong: nodes against which, and of how many.
    wrong: Option<(usize, usize)>,
    reported_wrong: bool,
}

/// Sessions and epochs begin with the incarnation.
fn first_number(incarnation: u32) -> u64 {
    u64::from(incarnation) << 32
}

impl Liveness {
    /// Begins a start of shard `me` at `now_ns`. `restored` is what was last made durable. A shard that never ran has `None`;
    /// one whose disk was lost or damaged is no such shard: it needs an incarnation that is above all that it can have had
    /// (see [`StepError::Forgotten`]) and the longest wait of any configuration that it can have had.
    ///
    /// # Panics
    /// When the configuration is invalid, or after four thousand million starts.
    #[must_use]
    pub fn new(me: Peer, config: Config, restored: Option<Durable>, now_ns: u64) -> Self {
        config.validate();
        let incarnation = restored.map_or(0, |durable| durable.incarnation);
        let waited = restored.map_or(0, |durable| durable.wait_ns);
        let durable = Durable {
            incarnation: incarnation
                .checked_add(1)
                .expect("a shard does not start four thousand million times"),
            // Earlier promises are waited for again if this start ends before they have expired.
            wait_ns: waited.max(config.wait_ns()),
        };
        let wait_ns = if planted_bug!("liveness-restart-does-not-wait") {
            0
        } else {
            waited
        };
        Self {
            me,
            config,
            pairs: Vec::new(),
            durable,
            write: Some(durable),
            persisted: planted_bug!("liveness-speaks-before-durable"),
            start_ns: now_ns.saturating_add(wait_ns),
            number: first_number(durable.incarnation),
            latest_ns: now_ns,
            wrong: None,
            reported_wrong: false,
        }
    }

    /// This shard.
    #[must_use]
    pub fn me(&self) -> Peer {
        self.me
    }

    /// Whether this shard may take part in anything: promises of earlier starts have expired, and this start is on disk. Before,
    /// it grants nothing, and no group of it may vote or ask for votes.
    #[must_use]
    pub fn may_start(&self, now_ns: u64) -> bool {
        self.persisted && now_ns.max(self.latest_ns) >= self.start_ns
    }

    /// When the time before which nothing may start has passed, by this shard's clock.
    #[must_use]
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Whether this node's clock was found outside the bound; it stays so.
    #[must_use]
    pub fn is_clock_out_of_bound(&self) -> bool {
        self.wrong.is_some()
    }

    /// The last one written is durable.
    pub fn persisted(&mut self, durable: Durable) {
        if durable.incarnation == self.durable.incarnation {
            self.persisted = true;
        }
    }

    /// Adds a peer; it is spoken to from now on. Both sides add each other.
    ///
    /// # Errors
    /// [`AddError`].
    pub fn add_peer(&mut self, peer: Peer, now_ns: u64) -> Result<(), AddError> {
        let now = self.observe(now_ns);
        if peer == self.me {
            return Err(AddError::Myself(peer));
        }
        match self.find(peer) {
            Ok(at) if !self.pairs[at].leaves => Err(AddError::Known(peer)),
            Ok(at) => {
                let session = self.next_number().map(Session).ok_or(AddError::Exhausted)?;
                self.pairs[at].renew(session, &self.config, now);
                Ok(())
            }
            Err(_) if self.pairs.len() >= self.config.peers_max => Err(AddError::Full(self.config.peers_max)),
            Err(at) => {
                let session = self.next_number().map(Session).ok_or(AddError::Exhausted)?;
                self.pairs.insert(at, Pair::new(peer, session, &self.config, now));
                Ok(())
            }
        }
    }

    /// Removes a peer. What it was promised is kept until it expires, and then reported as for any other.
    pub fn remove_peer(&mut self, peer: Peer, now_ns: u64) {
        self.observe(now_ns);
        if let Ok(at) = self.find(peer) {
            self.pairs[at].leaves = true;
            if planted_bug!("liveness-removal-ends-promise") {
                self.pairs[at].given = None;
            }
        }
    }

    /// A message from a peer.
    ///
    /// # Errors
    /// [`StepError`]. None of them stops the detector.
    pub fn step(&mut self, from: Peer, message: &Message, now_ns: u64) -> Result<(), StepError> {
        let now = self.observe(now_ns);
        let may_grant = self.may_start(now) && self.wrong.is_none();
        let at = self.find(from).map_err(|_| StepError::Unknown(from))?;
        let pair = &mut self.pairs[at];
        pair.expire(&self.config, now);
        if pair.leaves {
            return Err(StepError::Unknown(from));
        }
        if message.is_malformed() {
            return Err(StepError::Malformed(from));
        }
        if message.heard > pair.session {
            return Err(StepError::Forgotten {
                peer: from,
                incarnation: u32::try_from(message.heard.0 >> 32).unwrap_or(u32::MAX),
            });
        }
        if message.session < pair.heard() {
            // From before the peer's restart.
            return Ok(());
        }
        let mut news = false;
        if message.session > pair.heard() {
            pair.meet(message.session);
            news = true;
        }
        let heard = pair.hear(message, &self.config, now);
        news |= heard == Heard::AfterSilence;
        // What is for an earlier session of this shard is about promises that are over.
        if message.heard == pair.session || planted_bug!("liveness-earlier-session-counts") {
            if let Some(answer) = message.answer.filter(|_| !pair.outside) {
                news |= pair.answered(answer);
            }
            let trusted = !pair.outside || planted_bug!("liveness-grants-to-wrong-clock");
            let grants = may_grant && trusted && pair.is_heard_by(message, &self.config, now);
            if let Some(ask) = message.ask.filter(|_| grants) {
                news |= pair.asked(ask, &self.config, now);
            }
        }
        if news || heard != Heard::Late {
            pair.schedule(self.me, news, &self.config, now);
        }
        self.judge_clock(now);
        Ok(())
    }

    /// Hands out what is to be done now: after each input, and at [`wake_at`](Self::wake_at). What it finds in `ready` is
    /// forgotten.
    pub fn ready(&mut self, now_ns: u64, ready: &mut Ready) {
        let now = self.observe(now_ns);
        ready.clear();
        let trusted = self.wrong.is_none();
        if let Some((nodes, of)) = self.wrong
            && !core::mem::replace(&mut self.reported_wrong, true)
        {
            ready.events.push(Event::ClockOutOfBound { nodes, of });
        }
        if self.may_start(now) && self.durable.wait_ns > self.config.wait_ns() {
            // What earlier starts promised for longer is over.
            self.durable.wait_ns = self.config.wait_ns();
            self.write = Some(self.durable);
        }
        ready.durable = self.write.take();
        for at in 0..self.pairs.len() {
            self.pairs[at].expire(&self.config, now);
            self.report(at, trusted, now, ready);
            if self.persisted && !self.pairs[at].leaves && now >= self.pairs[at].next_ns {
                self.speak(at, trusted, now, ready);
            }
        }
        self.pairs.retain(|pair| !pair.leaves || pair.given.is_some());
    }

    /// When [`ready`](Self::ready) has something to do without an input, by this shard's clock. `None`: never.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        let pairs = self.pairs.iter().map(|pair| pair.wake_at(self.persisted));
        let start = Some(self.start_ns).filter(|start| *start > self.latest_ns);
        pairs.chain(start).min().filter(|at| *at < u64::MAX)
    }

    /// Until when a peer certainly supports this shard at that epoch, by this shard's clock; that time is not included. `None`
    /// when it is not known to, or not at that epoch. This is what a lease may last, if the clock is read before every use.
    #[must_use]
    pub fn supported_until(&self, peer: Peer, epoch: Epoch) -> Option<u64> {
        let pair = &self.pairs[self.find(peer).ok()?];
        let known = pair.epoch == Some(epoch) && self.wrong.is_none() && !pair.leaves;
        known
            .then(|| pair.believed_until(&self.config))
            .filter(|until| *until > 0)
    }

    /// What holds with a peer, as it was last reported.
    #[must_use]
    pub fn support(&self, peer: Peer) -> Support {
        self.find(peer)
            .map_or(Support::default(), |at| self.pairs[at].reported)
    }

    /// The peers, in order; those removed are among them until their promises have expired.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        self.pairs.iter().map(|pair| pair.peer)
    }

    /// Panics unless what must hold always does. For tests, after each input.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_invariants(&self) {
        assert!(self.pairs.windows(2).all(|two| two[0].peer < two[1].peer));
        assert!(self.pairs.len() <= self.config.peers_max);
        let range = first_number(self.durable.incarnation)..=u64::from(u32::MAX) << 32 | u64::from(u32::MAX);
        assert!(range.contains(&self.number));
        for pair in &self.pairs {
            pair.assert_invariants(&self.config, self.latest_ns);
            assert!(pair.session.0 <= self.number, "a session from nowhere");
            assert!(
                pair.epoch.is_none_or(|epoch| epoch.0 <= self.number),
                "an epoch from nowhere"
            );
        }
    }

    fn find(&self, peer: Peer) -> Result<usize, usize> {
        self.pairs.binary_search_by_key(&peer, |pair| pair.peer)
    }

    /// The clock, which stands still when it is set back. A clock that is set back farther than two live ones may differ was
    /// wrong before or is wrong now.
    fn observe(&mut self, now_ns: u64) -> u64 {
        let back = self.latest_ns.saturating_sub(now_ns);
        if back > self.config.clock_offset_ns_max && !planted_bug!("liveness-clock-may-go-back") {
            self.wrong.get_or_insert((0, 0));
        }
        self.latest_ns = self.latest_ns.max(now_ns);
        self.latest_ns
    }

    /// Most nodes are outside the bound: then it is this one.
    fn judge_clock(&mut self, now: u64) {
        if self.wrong.is_some() {
            return;
        }
        let (mut nodes, mut outside) = (0, 0);
        for peers in self.pairs.chunk_by(|one, next| one.peer.node == next.peer.node) {
            if peers[0].peer.node == self.me.node {
                // The same clock.
                continue;
            }
            let wrong = |pair: &Pair| pair.outside && pair.is_measured(&self.config, now);
            nodes += usize::from(peers.iter().any(|pair| !pair.leaves));
            outside += usize::from(peers.iter().any(|pair| !pair.leaves && wrong(pair)));
        }
        if outside * 2 > nodes {
            self.wrong = Some((outside, nodes));
        }
    }

    /// `None` when this start has used up its numbers, which takes years.
    fn next_number(&mut self) -> Option<u64> {
        let next = self.number.checked_add(1)?;
        if next >> 32 != u64::from(self.durable.incarnation) {
            return None;
        }
        self.number = next;
        Some(next)
    }

    fn report(&mut self, at: usize, trusted: bool, now: u64, ready: &mut Ready) {
        let pair = &mut self.pairs[at];
        let peer = pair.peer;
        let support = pair.support(trusted, now);
        if support != pair.reported {
            pair.reported = support;
            ready.events.push(Event::Support { peer, support });
        }
        if pair.outside != pair.reported_outside {
            pair.reported_outside = pair.outside;
            let (offset, outside) = (pair.offset, pair.outside);
            ready.events.push(Event::PeerClock {
                peer,
                offset,
                outside,
            });
        }
    }

    fn speak(&mut self, at: usize, trusted: bool, now: u64, ready: &mut Ready) {
        // Numbers are drawn here, where it is bounded how often, and not when a peer gives reason to.
        if self.pairs[at].epoch.is_none() && self.pairs[at].heard() != Session::NONE {
            self.pairs[at].epoch = self.next_number().map(Epoch);
        }
        let pair = &mut self.pairs[at];
        let message = pair.speak(trusted, &self.config, now);
        ready.messages.push((pair.peer, message));
    }
}
