//! Cases that others wrote: etcd's 127 quorum and 58 configuration-change cases, answer by answer.
//!
//! They are read from the directory named by `ETCD_RAFT_CASES`, else from `../shared/peer-data/etcd-raft` beside the repository,
//! and skipped, saying so, when neither is there. A case is a command, `----`, and what it prints, up to an empty line.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

use base::{Index, ReplicaId};
use corelane_raft::{MemberChange, Membership, MembershipError, VoteResult, committed, vote_result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

struct Case {
    at: String,
    input: Vec<String>,
    expected: String,
}

fn cases(part: &str) -> Option<Vec<(String, Vec<Case>)>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/peer-data/etcd-raft");
    let dir = std::env::var_os("ETCD_RAFT_CASES").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if !dir.is_dir() {
        eprintln!(
            "skipped: {} is not there; ETCD_RAFT_CASES names another place",
            dir.display()
        );
        return None;
    }
    let mut files: Vec<_> = std::fs::read_dir(dir.join(part))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().enumerate().peekable();
        let mut cases = Vec::new();
        while let Some((number, line)) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut input = vec![line.to_owned()];
            for (_, line) in lines.by_ref() {
                if line == "----" {
                    break;
                }
                input.push(line.to_owned());
            }
            let mut expected = String::new();
            for (_, line) in lines.by_ref() {
                if line.is_empty() {
                    break;
                }
                writeln!(expected, "{line}").unwrap();
            }
            let at = format!("{name}.txt, line {}", number + 1);
            cases.push(Case { at, input, expected });
        }
        (name, cases)
    };
    Some(files.into_iter().map(read).collect())
}

/// The list in `name=(a, b, c)` of a command, if it is there.
fn list<'a>(command: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (_, rest) = command.split_once(&format!(" {name}=("))?;
    let (list, _) = rest.split_once(')')?;
    Some(list.split([',', ' ']).filter(|word| !word.is_empty()).collect())
}

fn ids(words: &[&str]) -> Vec<ReplicaId> {
    words
        .iter()
        .map(|word| ReplicaId(word.parse().unwrap()))
        .collect()
}

/// The drawing that stands above the committed index.
fn draw(ids: &[ReplicaId], reached: &BTreeMap<ReplicaId, u64>) -> String {
    if ids.is_empty() {
        return "<empty majority quorum>".to_owned();
    }
    let n = ids.len();
    let of = |id: &ReplicaId| reached.get(id).copied();
    let mut out = format!("{}    idx\n", " ".repeat(n));
    for id in ids {
        let index = of(id).unwrap_or(0);
        let bar = ids.iter().filter(|id| of(id).unwrap_or(0) < index).count();
        match of(id) {
            Some(_) => write!(out, "{}>{}", "x".repeat(bar), " ".repeat(n - bar)).unwrap(),
            None => write!(out, "?{}", " ".repeat(n)).unwrap(),
        }
        writeln!(out, " {index:5}    (id={})", id.0).unwrap();
    }
    out
}

fn quorum_case(case: &Case) -> String {
    let command = case.input.join(" ");
    let incoming = ids(&list(&command, "cfg").unwrap_or_default());
    let joint = command.contains(" cfgj=");
    let outgoing = ids(&list(&command, "cfgj").unwrap_or_default());
    // Answers belong to the replicas in the order in which they are first named.
    let mut named = incoming.clone();
    named.extend(outgoing.iter().filter(|id| !incoming.contains(id)));
    let answers = |name| list(&command, name).unwrap_or_default();
    if command.starts_with("vote") {
        let votes: BTreeMap<_, _> = named.iter().zip(answers("votes")).collect();
        let vote = |id: ReplicaId| match votes.get(&id) {
            Some(&"y") => Some(true),
            Some(&"n") => Some(false),
            _ => None,
        };
        let result = if joint {
            vote_result(&incoming, vote).min(vote_result(&outgoing, vote))
        } else {
            vote_result(&incoming, vote)
        };
        if !incoming.is_empty() && !outgoing.is_empty() {
            let membership = joint_of(&incoming, &outgoing);
            assert_eq!(membership.vote_result(vote), result, "{}", case.at);
        }
        let text = match result {
            VoteResult::Won => "VoteWon",
            VoteResult::Lost => "VoteLost",
            VoteResult::Pending => "VotePending",
        };
        return format!("{text}\n");
    }
    assert!(command.starts_with("committed"), "{}: {command}", case.at);
    let reached: BTreeMap<_, _> = named
        .iter()
        .zip(answers("idx"))
        .filter(|(_, word)| *word != "_")
        .map(|(id, word)| (*id, word.parse().unwrap()))
        .collect();
    let of = |id: ReplicaId| Index(reached.get(&id).copied().unwrap_or(0));
    let sets = [committed(&incoming, of), committed(&outgoing, of)];
    let index = sets.into_iter().flatten().min();
    if !incoming.is_empty() && !outgoing.is_empty() {
        assert_eq!(joint_of(&incoming, &outgoing).committed(of), index, "{}", case.at);
    }
    named.sort();
    let index = index.map_or("∞".to_owned(), |index| index.0.to_string());
    format!("{}{index}\n", draw(&named, &reached))
}

/// The configuration `(incoming)&&(outgoing)`.
fn joint_of(incoming: &[ReplicaId], outgoing: &[ReplicaId]) -> Membership {
    let gone = outgoing.iter().filter(|id| !incoming.contains(id));
    let changes: Vec<_> = gone
        .map(|&id| MemberChange::Remove(id))
        .chain(incoming.iter().map(|&id| MemberChange::Voter(id)))
        .collect();
    Membership::of_voters(outgoing.iter().copied())
        .enter_joint(&changes, false)
        .unwrap()
}

#[test]
fn quorums() {
    let Some(files) = cases("quorum") else { return };
    let mut count = 0;
    for case in files.iter().flat_map(|(_, cases)| cases) {
        assert_eq!(
            quorum_case(case),
            case.expected,
            "{}: {}",
            case.at,
            case.input.join(" ")
        );
        count += 1;
    }
    assert_eq!(count, 127);
}

/// A configuration and, for each member, the number of the command that brought it in: what the cases call `next`.
#[derive(Default)]
struct Group {
    membership: Membership,
    since: BTreeMap<ReplicaId, u64>,
    commands: u64,
}

impl Group {
    fn run(&mut self, command: &str, changes: &[MemberChange]) -> Result<(), String> {
        let next = match command.split(' ').next().unwrap() {
            "simple" => self.membership.simple(changes),
            "enter-joint" => self
                .membership
                .enter_joint(changes, command.ends_with("autoleave=true")),
            "leave-joint" => self.membership.leave_joint(),
            other => panic!("no such command: {other}"),
        };
        let simple = command.starts_with("simple");
        let next = next.map_err(|error| {
            let text = match error {
                MembershipError::Witness(_) => unreachable!("etcd has no witnesses"),
                MembershipError::Joint if simple => "can't apply simple config change in joint config",
                MembershipError::Joint => "config is already joint",
                MembershipError::NotJoint => "can't leave a non-joint config",
                MembershipError::NoVotersBefore => "can't make a zero-voter config joint",
                MembershipError::NoVotersLeft => "removed all voters",
                MembershipError::SeveralVoters(_) => {
                    "more than one voter changed without entering joint config"
                }
            };
            format!("{text}\n")
        })?;
        let since = next.members().map(|id| {
            let known = self.since.get(&id).copied();
            (id, known.unwrap_or(self.commands.max(1)))
        });
        self.since = since.collect();
        self.membership = next;
        Ok(())
    }

    fn print(&self) -> String {
        let mut out = format!("{}\n", self.membership);
        for (id, since) in &self.since {
            let learner = self.membership.learners().contains(id);
            let suffix = if learner { " learner" } else { "" };
            writeln!(out, "{}: StateProbe match=0 next={since}{suffix}", id.0).unwrap();
        }
        out
    }
}

#[test]
fn configuration_changes() {
    let Some(files) = cases("confchange") else { return };
    let mut count = 0;
    for (_, cases) in &files {
        let mut group = Group::default();
        for case in cases {
            let words = case.input[1..].iter().flat_map(|line| line.split(' '));
            // There, replica 0 and updates of a replica are ways to say that nothing changes.
            let changes: Vec<_> = words
                .filter(|word| !word.is_empty() && !word.starts_with('u') && &word[1..] != "0")
                .map(|word| {
                    let id = ReplicaId(word[1..].parse().unwrap());
                    match &word[..1] {
                        "v" => MemberChange::Voter(id),
                        "l" => MemberChange::Learner(id),
                        "r" => MemberChange::Remove(id),
                        other => panic!("{}: no such change: {other}", case.at),
                    }
                })
                .collect();
            let result = group.run(&case.input[0], &changes);
            let found = result.err().unwrap_or_else(|| group.print());
            assert_eq!(found, case.expected, "{}: {}", case.at, case.input.join(" "));
            group.commands += 1;
            count += 1;
        }
    }
    assert_eq!(count, 58);
}
