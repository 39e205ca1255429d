//! Golden scripts: a small group in memory whose links, writes, crashes and ticks the script controls. One story each.
//!
//! | command | what happens |
//! |---|---|
//! | `group N [M]` | N voters, and M replicas that know nothing yet |
//! | `config NAME=N…` | of the replicas that start later; `external=1`: liveness from outside |
//! | `tick ID [N]`, `campaign ID` | N ticks pass; an election is asked for |
//! | `propose ID TEXT [N]` | proposes it, N times |
//! | `members ID +4 ~3 -2 =5`, `joint ID …`, `leave ID` | `+` voter, `~` learner, `=` witness, `-` removed |
//! | `transfer ID TO`, `rank ID N` | leadership goes to TO; the rank of ID |
//! | `read ID TOKEN`, `lease ID` | asks for a read; says whether a lease holds |
//! | `support A B EPOCH`, `withdraw A B` | A's node supports B's, or does so no more; both hear of it |
//! | `expiry ID A=TIME…` | until when the lease of ID lasts, if its peers support it until then |
//! | `alive ID` | whether it needs ticks |
//! | `persist ID` | the oldest write of ID ends |
//! | `deliver FROM TO` | the oldest message on that link arrives |
//! | `talk A B` | messages between the two arrive until none is left; no write ends |
//! | `drop FROM TO`, `cut FROM TO`, `heal` | the oldest message is lost; all later ones are; links work again |
//! | `crash ID [KEPT]`, `start ID` | it stops; all but the KEPT oldest writes that have not ended are lost |
//! | `damage ID INDEX [LAST]`, `lose-state ID` | while it is down: the log from INDEX on, or up to LAST, or everything, cannot be read any more |
//! | `force ID` | while it is down: it is the group from now on |
//! | `compact ID INDEX` | the log up to INDEX goes |
//! | `had ID` | up to where the log may go before others lack it |
//! | `slow-apply`, `apply ID` | what is delivered is applied no longer by itself; ID applies what it has |
//! | `slow-log`, `fetch ID [fails]` | fetches no longer end by themselves; the oldest one of ID ends |
//! | `snapshot-failed ID TO` | the state that ID sent to TO did not arrive |
//! | `connection-lost ID TO` | what is under way from ID to TO may not arrive |
//! | `forge FROM TO index=I term=T chain=C` | an append with an entry that TO has not got from a leader |
//! | `settle` | writes end and messages arrive until nothing is left, and fetches end |
//! | `status`, `net` | prints each replica; prints what is under way |

mod fixtures;

use base::{Index, Prng, ReplicaId};
use corelane_raft::{
    Body, Config, Content, Entry, Epoch, Fetch, Liveness, Mark, MemberChange, Message, Raft, ReadToken,
    Ready, Restored, Support,
};
use fixtures::{END, Messages, Node};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

test_each_file::test_each_path! { in "raft/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut Group::default(), path).expect("the script runs");
}}

#[derive(Default)]
struct Group {
    nodes: BTreeMap<ReplicaId, Node>,
    net: BTreeMap<(ReplicaId, ReplicaId), VecDeque<Message>>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    /// Of the first node for the second.
    supports: BTreeMap<(ReplicaId, ReplicaId), Epoch>,
    fetches: BTreeMap<ReplicaId, VecDeque<Fetch>>,
    /// What was delivered is applied only when the script says so.
    slow_apply: bool,
    delivered: BTreeMap<ReplicaId, Index>,
    /// Fetches end only when the script says so.
    slow_log: bool,
    config: Config,
    out: String,
}

fn changes(words: &[&str]) -> Result<Vec<MemberChange>, Box<dyn Error>> {
    let change = |word: &&str| {
        let of = ReplicaId(word[1..].parse()?);
        Ok(match &word[..1] {
            "+" => MemberChange::Voter(of),
            "~" => MemberChange::Learner(of),
            "=" => MemberChange::Witness(of),
            _ => MemberChange::Remove(of),
        })
    };
    words.iter().map(change).collect()
}

type Outcome = Result<(), Box<dyn Error>>;

fn show(entry: &Entry) -> String {
    let content = match &entry.content {
        Content::Empty => "empty".to_owned(),
        Content::Command(payload) => String::from_utf8_lossy(payload).into_owned(),
        Content::Membership(membership) => membership.to_string(),
        Content::Header(_) => "header".to_owned(),
    };
    format!("{}@{} {content}", entry.index, entry.term)
}

impl Group {
    fn raft(&mut self, id: ReplicaId) -> Result<&mut Raft, Box<dyn Error>> {
        let node = self.nodes.get_mut(&id).ok_or("no such replica")?;
        Ok(node.raft.as_mut().ok_or("it is down")?)
    }

    fn start(&mut self, id: ReplicaId) -> Outcome {
        let node = self.nodes.get_mut(&id).ok_or("no such replica")?;
        node.start(id, &Arc::new(self.config.clone()), Prng::new(id.0));
        for other in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.tell(id, other)?;
        }
        self.drain(id)
    }

    /// Tells a replica what its node knows of another's.
    fn tell(&mut self, id: ReplicaId, other: ReplicaId) -> Outcome {
        let support = Support {
            given: self.supports.get(&(id, other)).copied(),
            received: self.supports.get(&(other, id)).copied(),
        };
        if self.nodes[&id].raft.is_some() {
            self.raft(id)?.liveness(other, support);
            self.drain(id)?;
        }
        Ok(())
    }

    fn send(&mut self, from: ReplicaId, messages: Messages) {
        for (to, message) in messages {
            if !self.cut.contains(&(from, to)) {
                self.net.entry((from, to)).or_default().push_back(message);
            }
        }
    }

    fn drain(&mut self, id: ReplicaId) -> Outcome {
        loop {
            let mut ready = Ready::default();
            let raft = self.raft(id)?;
            let more = raft.ready(&mut ready);
            raft.assert_invariants();
            for event in &ready.events {
                writeln!(self.out, "{id} {event}")?;
            }
            let committed: Vec<_> = self.raft(id)?.entries(&ready.committed).cloned().collect();
            for entry in committed {
                writeln!(self.out, "{id} applies {}", show(&entry))?;
                self.delivered.insert(id, entry.index);
                if !self.slow_apply {
                    self.raft(id)?.applied(entry.index);
                }
            }
            for read in &ready.reads {
                writeln!(
                    self.out,
                    "{id} may serve read {} when {} is applied",
                    read.token.0, read.index
                )?;
            }
            for fetch in &ready.fetches {
                writeln!(
                    self.out,
                    "{id} fetches {} to {} for {}",
                    fetch.first, fetch.last, fetch.peer
                )?;
                self.fetches.entry(id).or_default().push_back(*fetch);
            }
            if let Some(snapshot) = &ready.snapshot {
                writeln!(self.out, "{id} installs the state at {}", snapshot.last.index)?;
            }
            let messages = core::mem::take(&mut ready.messages);
            self.send(id, messages);
            self.nodes.get_mut(&id).ok_or("no such replica")?.write(ready);
            if !more {
                return Ok(());
            }
        }
    }

    fn persist(&mut self, id: ReplicaId) -> Outcome {
        let node = self.nodes.get_mut(&id).ok_or("no such replica")?;
        let messages = node.persist().ok_or("nothing is being written")?;
        self.send(id, messages);
        self.drain(id)
    }

    fn deliver(&mut self, from: ReplicaId, to: ReplicaId) -> Outcome {
        let queue = self.net.get_mut(&(from, to)).ok_or("nothing is under way")?;
        let message = queue.pop_front().ok_or("nothing is under way")?;
        if self.nodes[&to].raft.is_none() {
            return Ok(());
        }
        if let Err(malformed) = self.raft(to)?.step(from, message) {
            writeln!(self.out, "{to} refuses a {malformed}")?;
        }
        self.drain(to)
    }

    /// Messages between two arrive until none is left; no write ends.
    fn talk(&mut self, a: ReplicaId, b: ReplicaId) -> Outcome {
        while let Some((from, to)) = [(a, b), (b, a)]
            .into_iter()
            .find(|link| self.net.get(link).is_some_and(|queue| !queue.is_empty()))
        {
            self.deliver(from, to)?;
        }
        Ok(())
    }

    /// The oldest fetch ends.
    fn fetch(&mut self, id: ReplicaId, fails: bool) -> Outcome {
        let fetches = self.fetches.entry(id).or_default();
        let fetch = fetches.pop_front().ok_or("nothing is being fetched")?;
        let entries = self.nodes[&id].fetch(fetch);
        let raft = self.raft(id)?;
        if fails {
            raft.fetch_failed(fetch);
        } else {
            raft.fetched(fetch, entries);
        }
        self.drain(id)
    }

    fn settle(&mut self) -> Outcome {
        loop {
            let reader = self.fetches.iter().find(|(_, queue)| !queue.is_empty());
            if let Some(id) = reader.map(|(id, _)| *id).filter(|_| !self.slow_log) {
                self.fetch(id, false)?;
                continue;
            }
            let writer = self.nodes.iter().find(|(_, node)| !node.writes.is_empty());
            let link = self.net.iter().find(|(_, queue)| !queue.is_empty());
            match (writer.map(|(id, _)| *id), link.map(|(link, _)| *link)) {
                (Some(id), _) => self.persist(id)?,
                (None, Some((from, to))) => self.deliver(from, to)?,
                (None, None) => return Ok(()),
            }
        }
    }

    fn status(&mut self) -> Outcome {
        for (id, node) in &self.nodes {
            let Some(raft) = &node.raft else {
                writeln!(self.out, "{id} is down")?;
                continue;
            };
            let leader = raft
                .leader()
                .map_or("nobody".to_owned(), |leader| leader.to_string());
            let (term, last, commit) = (raft.term(), raft.last(), raft.commit_index());
            writeln!(
                self.out,
                "{id} {term} follows {leader}, last {}@{}, commit {commit}, {}",
                last.index,
                last.term,
                raft.membership()
            )?;
        }
        Ok(())
    }

    fn configure(&mut self, word: &str) -> Outcome {
        let (name, value) = word.split_once('=').ok_or("as in election_ticks=5")?;
        let number: usize = value.parse()?;
        let ticks = u32::try_from(number)?;
        let config = &mut self.config;
        match name {
            "election_ticks" => config.election_ticks = ticks,
            "heartbeat_ticks" => config.heartbeat_ticks = ticks,
            "lease_ticks" => config.lease_ticks = ticks,
            "external" => config.liveness = Liveness::External,
            "append_entries_max" => config.append_entries_max = number,
            "append_bytes_max" => config.append_bytes_max = number,
            "in_flight_max" => config.in_flight_max = number,
            "in_flight_bytes_max" => config.in_flight_bytes_max = number,
            "deliver_bytes_max" => config.deliver_bytes_max = number,
            "uncommitted_bytes_max" => config.uncommitted_bytes_max = number,
            "turn_entries_max" => config.turn_entries_max = number,
            "turn_bytes_max" => config.turn_bytes_max = number,
            "cache_bytes_max" => config.cache_bytes_max = number,
            "reads_max" => config.reads_max = number,
            "resend_answers" => config.resend_answers = ticks,
            other => return Err(format!("unknown tunable {other}").into()),
        }
        Ok(())
    }

    /// An append that no leader sent, with one entry.
    fn forge(&mut self, from: ReplicaId, to: ReplicaId, words: &[&str]) -> Outcome {
        let raft = self.raft(to)?;
        let (term, last) = (raft.term(), raft.last());
        let mut mark = Mark {
            term,
            index: last.index.next(),
        };
        let mut chain = None;
        for word in words {
            let (name, value) = word.split_once('=').ok_or("as in index=3")?;
            match name {
                "index" => mark.index = Index(value.parse()?),
                "term" => mark.term = base::Term(value.parse()?),
                "chain" => chain = Some(value.parse()?),
                other => return Err(format!("unknown field {other}").into()),
            }
        }
        let mut entry = Entry::new(0, mark, Content::Command(b"forged".as_slice().into()));
        entry.chain = chain.unwrap_or(entry.chain);
        let body = Body::Append {
            prev: last,
            entries: vec![entry],
            commit: Index::ZERO,
        };
        self.send(from, vec![(to, Message { term, body })]);
        Ok(())
    }

    fn command(&mut self, name: &str, words: &[&str]) -> Outcome {
        let number = |at: usize| -> Result<u64, Box<dyn Error>> {
            Ok(words.get(at).ok_or("an argument is missing")?.parse()?)
        };
        let id = |at: usize| number(at).map(ReplicaId);
        match name {
            "group" => {
                let voters = number(0)?;
                let spare = if words.len() > 1 { number(1)? } else { 0 };
                for id in (1..=voters + spare).map(ReplicaId) {
                    let mut node = Node::default();
                    if id.0 <= voters {
                        node.disk = Restored::first((1..=voters).map(ReplicaId));
                    }
                    self.nodes.insert(id, node);
                    self.start(id)?;
                }
                return Ok(());
            }
            "tick" => {
                for _ in 0..if words.len() > 1 { number(1)? } else { 1 } {
                    self.raft(id(0)?)?.tick();
                    self.drain(id(0)?)?;
                }
                return Ok(());
            }
            "config" => {
                for word in words {
                    self.configure(word)?;
                }
                return Ok(());
            }
            "campaign" => self.raft(id(0)?)?.campaign_now(),
            "propose" => {
                let text = *words.get(1).ok_or("what?")?;
                for _ in 0..if words.len() > 2 { number(2)? } else { 1 } {
                    if let Err(error) = self.raft(id(0)?)?.propose(text.as_bytes().into()) {
                        writeln!(self.out, "refused: {error}")?;
                    }
                }
            }
            "members" | "joint" | "leave" => {
                let changes = changes(&words[1..])?;
                let raft = self.raft(id(0)?)?;
                let proposed = match name {
                    "members" => raft.propose_members(&changes),
                    "joint" => raft.propose_joint(&changes),
                    _ => raft.propose_leave(),
                };
                if let Err(error) = proposed {
                    writeln!(self.out, "refused: {error}")?;
                }
            }
            "rank" => {
                let rank = u8::try_from(number(1)?)?;
                self.raft(id(0)?)?.set_rank(rank);
            }
            "read" => {
                let token = ReadToken(number(1)?);
                if let Err(error) = self.raft(id(0)?)?.read_index(token) {
                    writeln!(self.out, "refused: {error}")?;
                }
            }
            "lease" => {
                let holds = self.raft(id(0)?)?.has_lease();
                writeln!(self.out, "{}", if holds { "it holds" } else { "none" })?;
                return Ok(());
            }
            "expiry" => {
                let mut times = BTreeMap::new();
                for word in &words[1..] {
                    let (of, time) = word.split_once('=').ok_or("as in 2=100")?;
                    times.insert(ReplicaId(of.parse()?), time.parse::<u64>()?);
                }
                let me = id(0)?;
                let supports = self.supports.clone();
                let expiry = |of, epoch| {
                    let supported = supports.get(&(of, me)) == Some(&epoch);
                    times.get(&of).copied().filter(|_| supported)
                };
                match self.raft(me)?.lease_until(expiry) {
                    Some(until) => writeln!(self.out, "until {until}")?,
                    None => writeln!(self.out, "none")?,
                }
                return Ok(());
            }
            "alive" => {
                let needs = self.raft(id(0)?)?.needs_tick();
                writeln!(
                    self.out,
                    "{}",
                    if needs { "it needs ticks" } else { "it is quiet" }
                )?;
                return Ok(());
            }
            "support" | "withdraw" => {
                let (from, to) = (id(0)?, id(1)?);
                if name == "support" {
                    self.supports.insert((from, to), Epoch(number(2)?));
                } else {
                    self.supports.remove(&(from, to));
                }
                self.tell(to, from)?;
                return self.tell(from, to);
            }
            "transfer" => {
                let to = id(1)?;
                if let Err(error) = self.raft(id(0)?)?.transfer_leadership(to) {
                    writeln!(self.out, "refused: {error}")?;
                }
            }
            "compact" => {
                let index = Index(number(1)?);
                let node = self.nodes.get_mut(&id(0)?).ok_or("no such replica")?;
                node.compact(index, index);
            }
            "had" => {
                let had = self.raft(id(0)?)?.had_by_peers();
                let had = had.map_or_else(
                    || "nobody lacks what is here".to_owned(),
                    |had| format!("up to {had}"),
                );
                writeln!(self.out, "{had}")?;
            }
            "snapshot-failed" => self.raft(id(0)?)?.snapshot_failed(id(1)?),
            "connection-lost" => {
                let to = id(1)?;
                self.raft(id(0)?)?.connection_lost(|peer| peer == to);
            }
            "fetch" => return self.fetch(id(0)?, words.get(1) == Some(&"fails")),
            "slow-apply" => {
                self.slow_apply = true;
                return Ok(());
            }
            "apply" => {
                let index = self.delivered[&id(0)?];
                self.raft(id(0)?)?.applied(index);
            }
            "slow-log" => {
                self.slow_log = true;
                return Ok(());
            }
            "damage" | "lose-state" => {
                let node = self.nodes.get_mut(&id(0)?).ok_or("no such replica")?;
                let first = if name == "damage" { number(1)? } else { 1 };
                let last = if words.len() > 2 { number(2)? } else { END };
                if !node.damage(Index(first), Index(last), name == "damage") {
                    writeln!(self.out, "nothing that matters is lost")?;
                }
                return Ok(());
            }
            "force" => {
                let me = id(0)?;
                let node = self.nodes.get_mut(&me).ok_or("no such replica")?;
                node.disk = core::mem::take(&mut node.disk).force(me);
                return Ok(());
            }
            "forge" => {
                let (from, to) = (id(0)?, id(1)?);
                return self.forge(from, to, &words[2..]);
            }
            "persist" => return self.persist(id(0)?),
            "deliver" => return self.deliver(id(0)?, id(1)?),
            "talk" => return self.talk(id(0)?, id(1)?),
            "drop" => {
                let link = (id(0)?, id(1)?);
                let queue = self.net.get_mut(&link).ok_or("nothing is under way")?;
                queue.pop_front().ok_or("nothing is under way")?;
                return Ok(());
            }
            "cut" => {
                self.cut.insert((id(0)?, id(1)?));
                return Ok(());
            }
            "heal" => {
                self.cut.clear();
                return Ok(());
            }
            "crash" => {
                let kept = if words.len() > 1 { number(1)? } else { 0 };
                let node = self.nodes.get_mut(&id(0)?).ok_or("no such replica")?;
                node.crash(usize::try_from(kept)?);
                self.fetches.remove(&id(0)?);
                return Ok(());
            }
            "start" => return self.start(id(0)?),
            "settle" => return self.settle(),
            "status" => return self.status(),
            "net" => {
                for ((from, to), queue) in &self.net {
                    for message in queue {
                        writeln!(self.out, "{from} to {to}: {message:?}")?;
                    }
                }
                return Ok(());
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        self.drain(id(0)?)
    }
}

impl goldenscript::Runner for Group {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let word = |arg: &goldenscript::Argument| match arg {
            goldenscript::Argument::Positional(value) => value.clone(),
            // As it is written.
            pair => pair.to_string(),
        };
        let words: Vec<String> = command.args.iter().map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.command(&command.name, &words)?;
        Ok(core::mem::take(&mut self.out))
    }
}
