//! Golden scripts: a small group in memory whose links, writes, crashes and ticks the script controls. One story each.
//!
//! | command | what happens |
//! |---|---|
//! | `group N [M]` | N voters, and M replicas that know nothing yet |
//! | `tick ID [N]`, `campaign ID` | N ticks pass; an election is asked for |
//! | `propose ID TEXT`, `members ID +4 ~3 -2`, `transfer ID TO` | as named; `+` voter, `~` learner, `-` removed |
//! | `persist ID` | the oldest write of ID ends |
//! | `deliver FROM TO` | the oldest message on that link arrives |
//! | `drop FROM TO`, `cut FROM TO`, `heal` | the oldest message is lost; all later ones are; links work again |
//! | `crash ID`, `start ID` | writes that have not ended are lost |
//! | `compact ID INDEX` | the log up to INDEX goes |
//! | `settle` | writes end and messages arrive until nothing is left |
//! | `status`, `net` | prints each replica; prints what is under way |

mod fixtures;

use base::{Index, Prng, ReplicaId};
use corelane_raft::{Config, Content, Entry, MemberChange, Message, Raft, Ready, Restored};
use fixtures::{Messages, Node};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;

test_each_file::test_each_path! { in "raft/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut Group::default(), path).expect("the script runs");
}}

#[derive(Default)]
struct Group {
    nodes: BTreeMap<ReplicaId, Node>,
    net: BTreeMap<(ReplicaId, ReplicaId), VecDeque<Message>>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    out: String,
}

type Outcome = Result<(), Box<dyn Error>>;

fn show(entry: &Entry) -> String {
    let content = match &entry.content {
        Content::Empty => "empty".to_owned(),
        Content::Command(payload) => String::from_utf8_lossy(payload).into_owned(),
        Content::Membership(membership) => membership.to_string(),
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
        node.start(Config::new(id), Prng::new(id.0));
        self.drain(id)
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
            for entry in ready.committed.drain(..) {
                writeln!(self.out, "{id} applies {}", show(&entry))?;
            }
            if let Some(snapshot) = &ready.snapshot {
                writeln!(self.out, "{id} installs the state at {}", snapshot.last.index)?;
            }
            let messages = core::mem::take(&mut ready.messages);
            self.send(id, messages);
            if let Some(mark) = ready.mark {
                let node = self.nodes.get_mut(&id).ok_or("no such replica")?;
                node.writes.push_back((mark, ready));
            }
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
        self.raft(to)?.step(from, message)?;
        self.drain(to)
    }

    fn settle(&mut self) -> Outcome {
        loop {
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
            "campaign" => self.raft(id(0)?)?.campaign_now(),
            "propose" => {
                let text = *words.get(1).ok_or("what?")?;
                if let Err(error) = self.raft(id(0)?)?.propose(text.as_bytes().into()) {
                    writeln!(self.out, "refused: {error}")?;
                }
            }
            "members" => {
                let mut changes = Vec::new();
                for word in &words[1..] {
                    let of = ReplicaId(word[1..].parse()?);
                    changes.push(match &word[..1] {
                        "+" => MemberChange::Voter(of),
                        "~" => MemberChange::Learner(of),
                        _ => MemberChange::Remove(of),
                    });
                }
                if let Err(error) = self.raft(id(0)?)?.propose_members(&changes) {
                    writeln!(self.out, "refused: {error}")?;
                }
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
                node.compact(index);
            }
            "persist" => return self.persist(id(0)?),
            "deliver" => return self.deliver(id(0)?, id(1)?),
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
                let node = self.nodes.get_mut(&id(0)?).ok_or("no such replica")?;
                node.crash(0);
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
        let mut args = command.consume_args();
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_string());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.command(&command.name, &words)?;
        Ok(core::mem::take(&mut self.out))
    }
}
