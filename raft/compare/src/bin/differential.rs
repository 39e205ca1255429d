//! The same schedules through both cores: they must agree on what is in which log, and on what is committed.
//!
//! # What "the same" means
//!
//! The messages of two cores are not each other's, so no schedule of single messages is defined for both. What is defined by the
//! protocol, not by an implementation, is where a group comes to rest. So a schedule is a list of *rounds*: one event (an election,
//! proposals, a crash, a change of links or members, a compaction), then messages until none is under way. Inside a round each core
//! draws for itself the order of delivery, doubles, losses and restarts of followers, and the leaders' heartbeats repair them before
//! the round ends.
//!
//! To coincide, elections are called for, each in a term of its own that the schedule names; then a vote depends on logs and links only.
//!
//! After each round, for each replica, in both cores:
//! - the term is the same, and so is who leads;
//! - the log is: index, term and content of each entry that neither has compacted;
//! - the commit index is the same with the leader of the last term and everybody linked to it; for the others only what was applied
//!   is compared, as the cores tell of it on different occasions;
//! - the members are the same with the leader of the last term and everybody linked to it.
//!
//! After each round over all replicas of both: what was applied at an index is the same everywhere. At the end all links are mended,
//! somebody who can is elected, and all replicas of both cores must have applied one and the same sequence.
//!
//! Left out, because the cores differ there by design: links cut one way (one sends entries with a probe, the other does not), members
//! changed while links are cut (in effect when appended, or when applied), removals (one core sends the entry by which a replica goes to that replica, the other does not), pre-votes and timeouts.
//!
//! `differential [FROM..TO]` runs the schedules of these seeds; the default is 0..10000.

use base::Prng;
use corelane_raft_compare::{Change, Members, Ours, Position, Replica, Theirs};
use std::collections::{BTreeMap, BTreeSet};

const ROUNDS: u32 = 40;
/// Rounds of heartbeats after which a group is at rest.
const REPAIRS: u32 = 4;
/// More messages than any round needs: a group that exceeds them does not come to rest.
const MESSAGES_MAX: u32 = 100_000;

/// What a round begins with.
#[derive(Debug, Clone)]
enum Event {
    /// An election of this replica, in this term.
    Campaign(u64, u64),
    /// Proposals to this replica, numbered from.
    Propose { at: u64, first: u32, count: u32 },
    /// A proposal, and the replica stops before it is sent; it is written or not.
    ProposeAndCrash { at: u64, number: u32, writes: bool },
    /// As in `Campaign`, but the replica stops before it has asked.
    CampaignAndCrash { at: u64, term: u64, writes: bool },
    /// A restart at rest.
    Restart(u64),
    /// Links that are cut from now on, both ways. Leaders of old terms restart.
    Cut(BTreeSet<(u64, u64)>),
    /// A change of the members, proposed to whoever leads.
    Change(Vec<Change>),
    /// The log is cut at what is applied.
    Compact(u64),
}

/// What the group looks like at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest {
    term: u64,
    leads: bool,
    commit: u64,
    start: u64,
    log: Vec<Position>,
    members: Members,
}

/// A group of one of the cores.
struct Group<R: Replica> {
    replicas: BTreeMap<u64, R>,
    cut: BTreeSet<(u64, u64)>,
    net: Vec<(u64, u64, R::Message)>,
    prng: Prng,
    applied: BTreeMap<u64, Position>,
}

impl<R: Replica> Group<R> {
    fn new(of: impl Fn(u64) -> R, replicas: u64, prng: Prng) -> Self {
        Self {
            replicas: (1..=replicas).map(|id| (id, of(id))).collect(),
            cut: BTreeSet::new(),
            net: Vec::new(),
            prng,
            applied: BTreeMap::new(),
        }
    }

    fn turn(&mut self, id: u64) {
        let (mut out, mut applied) = (Vec::new(), Vec::new());
        self.at(id).turn(&mut out, Some(&mut applied));
        for (to, message) in out {
            if !self.cut.contains(&(id.min(to), id.max(to))) {
                self.net.push((id, to, message));
            } else if R::is_snapshot(&message) {
                self.at(id).snapshot_failed(to);
            }
        }
        for position in applied {
            let known = self
                .applied
                .entry(position.index)
                .or_insert_with(|| position.clone());
            assert_eq!(*known, position, "{}: {id} applies something else", R::NAME);
        }
    }

    fn at(&mut self, id: u64) -> &mut R {
        self.replicas.get_mut(&id).expect("a replica of the group")
    }

    fn begin(&mut self, event: &Event) {
        match event {
            Event::Campaign(id, term) => self.at(*id).campaign(*term),
            Event::Propose { at, first, count } => {
                for number in *first..first + count {
                    self.at(*at).propose(&number.to_le_bytes());
                    if self.prng.chance(0.5) {
                        self.turn(*at);
                    }
                }
            }
            Event::ProposeAndCrash { at, number, writes } => {
                self.at(*at).propose(&number.to_le_bytes());
                self.at(*at).crash(*writes);
            }
            Event::CampaignAndCrash { at, term, writes } => {
                self.at(*at).campaign(*term);
                self.at(*at).crash(*writes);
            }
            Event::Restart(id) => self.at(*id).crash(true),
            Event::Cut(links) => {
                self.cut.clone_from(links);
                // Else it depends on which message comes first whether entries of an old leader reach anybody more.
                let last = self.replicas.values().map(R::term).max();
                let old = |replica: &&mut R| replica.leads() && Some(replica.term()) < last;
                self.replicas
                    .values_mut()
                    .filter(old)
                    .for_each(|replica| replica.crash(true));
            }
            Event::Change(changes) => {
                for replica in self.replicas.values_mut() {
                    replica.change(changes);
                }
            }
            Event::Compact(id) => self.at(*id).compact(0),
        }
    }

    /// Delivers until nothing is under way. `chaos`: messages that are no votes are lost, and followers restart.
    fn deliver(&mut self, chaos: bool) {
        let ids: Vec<_> = self.replicas.keys().copied().collect();
        for &id in &ids {
            self.turn(id);
        }
        for _ in 0..MESSAGES_MAX {
            if self.net.is_empty() {
                return;
            }
            let at = self.prng.index(self.net.len());
            let (from, to, message) = self.net.swap_remove(at);
            let election = R::is_election(&message);
            if chaos && !election {
                if self.prng.chance(0.1) {
                    if R::is_snapshot(&message) {
                        self.at(from).snapshot_failed(to);
                        self.turn(from);
                    }
                    continue;
                }
                if self.prng.chance(0.05) {
                    self.net.push((from, to, message.clone()));
                }
                if self.prng.chance(0.02) && !self.replicas[&to].leads() {
                    self.at(to).crash(true);
                }
            }
            self.at(to).step(from, message);
            self.turn(to);
        }
        panic!("{}: messages without end", R::NAME);
    }

    fn round(&mut self, event: &Event, chaos: bool) {
        self.begin(event);
        self.deliver(chaos);
        for _ in 0..REPAIRS {
            let ids: Vec<_> = self.replicas.keys().copied().collect();
            for replica in self.replicas.values_mut() {
                replica.beat();
                // Its receipt may have been lost: no state is under way any more.
                ids.iter().for_each(|to| replica.snapshot_failed(*to));
            }
            self.deliver(false);
        }
    }

    fn rest(&self) -> BTreeMap<u64, Rest> {
        let rest = |replica: &R| {
            let (start, log) = replica.log();
            Rest {
                term: replica.term(),
                leads: replica.leads(),
                commit: replica.commit(),
                start,
                log,
                members: replica.members(),
            }
        };
        self.replicas
            .iter()
            .map(|(id, replica)| (*id, rest(replica)))
            .collect()
    }
}

/// Draws events as what both have come to allows them.
struct Schedule {
    prng: Prng,
    term: u64,
    proposed: u32,
    cut: BTreeSet<(u64, u64)>,
}

impl Schedule {
    fn term(&mut self) -> u64 {
        // Every other one, so that no replica has led in the one before.
        self.term += 2;
        self.term
    }

    fn links(&mut self, replicas: u64) -> BTreeSet<(u64, u64)> {
        let mut links = BTreeSet::new();
        match self.prng.below(4) {
            // Two sides.
            0 => {
                let side: Vec<bool> = (0..=replicas).map(|_| self.prng.chance(0.5)).collect();
                let apart = |a: u64, b: u64| side[a as usize] != side[b as usize];
                links.extend(pairs(replicas).filter(|&(a, b)| apart(a, b)));
            }
            // Any links.
            1 => links.extend(pairs(replicas).filter(|_| self.prng.chance(0.3))),
            _ => {}
        }
        links
    }

    fn next(&mut self, rest: &BTreeMap<u64, Rest>) -> Event {
        let replicas = rest.len() as u64;
        let at = 1 + self.prng.below(replicas);
        // The leader of the last term, whom proposals mostly go to.
        let latest = latest_leader(rest);
        let to = latest.filter(|_| self.prng.chance(0.7)).unwrap_or(at);
        let votes = |id: u64| rest[&id].members[0].contains(&id) || rest[&id].members[1].contains(&id);
        match self.prng.below(100) {
            0..18 if votes(at) => Event::Campaign(at, self.term()),
            18..55 => {
                let (first, count) = (self.proposed, 1 + self.prng.below(6) as u32);
                self.proposed += count;
                Event::Propose { at: to, first, count }
            }
            55..62 => {
                self.proposed += 1;
                let (number, writes) = (self.proposed - 1, self.prng.chance(0.6));
                Event::ProposeAndCrash {
                    at: to,
                    number,
                    writes,
                }
            }
            62..65 if votes(at) => Event::CampaignAndCrash {
                at,
                term: self.term(),
                writes: self.prng.chance(0.6),
            },
            65..72 => Event::Restart(at),
            72..84 => {
                self.cut = self.links(replicas);
                Event::Cut(self.cut.clone())
            }
            84..92 if self.cut.is_empty() => match latest {
                Some(leader) if votes(leader) => Event::Change(self.change(rest, leader)),
                _ => Event::Restart(at),
            },
            _ => Event::Compact(at),
        }
    }

    /// Changes that keep the leader, and two voters: a voter alone elects itself before or after its write, as the core has it.
    fn change(&mut self, rest: &BTreeMap<u64, Rest>, leader: u64) -> Vec<Change> {
        let count = 1 + self.prng.below(2);
        let mut changes = Vec::new();
        for _ in 0..count {
            let id = 1 + self.prng.below(rest.len() as u64);
            let voters = rest[&leader].members[0].len() as u64;
            changes.push(match self.prng.below(2) {
                _ if id == leader => continue,
                1 if voters > count + 1 => Change::Learner(id),
                _ => Change::Voter(id),
            });
        }
        // One wish for each: cores need not agree which of two wins.
        let mut seen = BTreeSet::new();
        changes.retain(|change| {
            let (Change::Voter(id) | Change::Learner(id) | Change::Remove(id)) = change;
            seen.insert(*id)
        });
        // One of several that says nothing new makes the change joint in one core only.
        let voters = &rest[&leader].members[0];
        changes.retain(|change| match change {
            Change::Voter(id) => !voters.contains(id),
            Change::Learner(id) | Change::Remove(id) => voters.contains(id),
        });
        if changes.is_empty() {
            changes.push(Change::Voter(leader));
        }
        changes
    }
}

fn pairs(replicas: u64) -> impl Iterator<Item = (u64, u64)> {
    (1..=replicas).flat_map(move |a| (a + 1..=replicas).map(move |b| (a, b)))
}

fn latest_leader(rest: &BTreeMap<u64, Rest>) -> Option<u64> {
    let leaders = rest.iter().filter(|(_, rest)| rest.leads);
    leaders.max_by_key(|(_, rest)| rest.term).map(|(id, _)| *id)
}

/// Panics unless both rest alike, as the top of this file says.
fn compare(ours: &Group<Ours>, theirs: &Group<Theirs>, cut: &BTreeSet<(u64, u64)>) {
    let (ours_rest, theirs_rest) = (ours.rest(), theirs.rest());
    let leader = latest_leader(&ours_rest);
    let last_term = ours_rest.values().map(|rest| rest.term).max();
    for (id, a) in &ours_rest {
        let b = &theirs_rest[id];
        let from = a.start.max(b.start);
        let kept = |rest: &Rest| -> Vec<Position> {
            let kept = rest.log.iter().filter(|position| position.index > from);
            kept.cloned().collect()
        };
        assert_eq!((a.term, a.leads), (b.term, b.leads), "term and role of {id}");
        assert_eq!(kept(a), kept(b), "the log of {id}");
        let hears = leader.is_some_and(|leader| {
            let linked = !cut.contains(&(leader.min(*id), leader.max(*id)));
            let leader = &ours_rest[&leader];
            let takes_part = leader.members.iter().any(|list| list.contains(id));
            Some(leader.term) == last_term && linked && takes_part
        });
        if hears {
            assert_eq!(a.commit, b.commit, "the commit index of {id}");
            assert_eq!(a.members, b.members, "the members as of {id}");
        }
    }
    for (index, position) in &ours.applied {
        if let Some(other) = theirs.applied.get(index) {
            assert_eq!(position, other, "what was applied at {index}");
        }
    }
}

/// One schedule. Returns how many entries both committed.
fn run(seed: u64, told: bool) -> usize {
    let mut prng = Prng::new(seed);
    let voters = [3, 5][prng.index(2)];
    let replicas = voters + prng.below(2);
    let mut ours = Group::new(|id| Ours::with_disk(id, voters), replicas, prng.fork());
    let mut theirs = Group::new(|id| Theirs::<true>::new(id, voters), replicas, prng.fork());
    let mut schedule = Schedule {
        prng: prng.fork(),
        term: 0,
        proposed: 0,
        cut: BTreeSet::new(),
    };
    let mut step = |event: &Event, chaos: bool, cut: &BTreeSet<(u64, u64)>| {
        if told {
            println!("{event:?}{}", if chaos { ", with losses" } else { "" });
        }
        ours.round(event, chaos);
        theirs.round(event, chaos);
        compare(&ours, &theirs, cut);
        let mut rest = ours.rest();
        // Whoever restarted knows of members as of its log in one core, as of what it applied in the other, until a leader comes:
        // no elections or changes by it.
        for (id, replica) in &mut rest {
            if theirs.replicas[id].members() != replica.members {
                replica.members = Members::default();
            }
        }
        (rest, theirs.applied.len(), ours.applied.len())
    };
    let mut rest = step(&Event::Campaign(1, schedule.term()), false, &schedule.cut).0;
    for _ in 1..ROUNDS {
        let event = schedule.next(&rest);
        let chaos =
            prng.chance(0.5) && !matches!(event, Event::Campaign(..) | Event::CampaignAndCrash { .. });
        rest = step(&event, chaos, &schedule.cut).0;
    }
    // All links mended, and whoever can is elected.
    schedule.cut.clear();
    rest = step(&Event::Cut(BTreeSet::new()), false, &schedule.cut).0;
    let votes = |id: &u64| rest[id].members[..2].iter().any(|list| list.contains(id));
    let mut able: Vec<_> = rest.keys().copied().filter(votes).collect();
    able.sort_by_key(|id| {
        let last = rest[id].log.last();
        std::cmp::Reverse(last.map_or((0, rest[id].start), |last| (last.term, last.index)))
    });
    for id in able {
        let event = Event::Campaign(id, schedule.term());
        let (rest, theirs_count, ours_count) = step(&event, false, &schedule.cut);
        if let Some(leader) = latest_leader(&rest).map(|id| &rest[&id])
            && leader.term == schedule.term
        {
            assert_eq!(theirs_count, ours_count, "one committed more than the other");
            for (id, replica) in &rest {
                let takes_part = leader.members.iter().any(|list| list.contains(id));
                assert!(
                    !takes_part || replica.commit == leader.commit,
                    "{id} lags at the end"
                );
            }
            return ours_count;
        }
    }
    panic!("nobody could be elected");
}

fn main() {
    let seeds = std::env::args().nth(1).unwrap_or_else(|| "0..10000".to_owned());
    let (from, to) = seeds.split_once("..").expect("FROM..TO");
    let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
    let mut committed = 0;
    for seed in from..to {
        // Without output: a panic ends the process, and the next run tells the story of its seed alone.
        let told = to - from == 1;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            hook(info);
            eprintln!("replay with: differential {seed}..{}", seed + 1);
        }));
        committed += run(seed, told);
        drop(std::panic::take_hook());
    }
    println!("{} schedules, the same {committed} entries committed", to - from);
}
