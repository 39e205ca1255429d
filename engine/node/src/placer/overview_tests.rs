//! Stories of one placer: reports and the time go in, orders come out as text.

use super::*;
use core::fmt::Write as _;
use placement::LoadSplit;

const SECOND: u64 = 1_000_000_000;

/// A cluster of nodes that report what they lead.
struct Story {
    overview: Overview,
    now_ns: u64,
    led: BTreeMap<u64, (u64, Led)>,
    silent: BTreeSet<u64>,
    ailing: BTreeMap<u64, Ailment>,
    /// All that were ever led.
    ranges: BTreeSet<u64>,
    nodes: u64,
    last: u64,
}

fn led(voters: &[u64], learners: &[u64]) -> Led {
    let seen = |node: &u64, votes| Seen {
        node: NodeId(*node),
        votes,
        up_to_date: votes,
    };
    Led {
        term: 1,
        generation: 1,
        span: base::key::Span::all(),
        replicas: voters
            .iter()
            .map(|node| seen(node, true))
            .chain(learners.iter().map(|node| seen(node, false)))
            .collect(),
        joint: false,
        order: 0,
        bytes: 1 << 20,
        reads: 0,
        writes: 0,
        middle: None,
        hot: LoadSplit::Unknown,
    }
}

use super::super::ledger::Seen;

impl Story {
    fn new(nodes: u64) -> Self {
        let settings = Placement::default().replace_after(Duration::from_secs(20));
        Self {
            overview: Overview::new(settings, 1, 0),
            now_ns: 0,
            led: BTreeMap::new(),
            silent: BTreeSet::new(),
            ailing: BTreeMap::new(),
            ranges: BTreeSet::new(),
            nodes,
            last: 0,
        }
    }

    /// A node says everything that it leads.
    fn report(&mut self, node: u64) {
        self.ranges.extend(self.led.keys());
        let words = self.ranges.iter().map(|range| Word {
            range: RangeId(*range),
            pinned: false,
            led: self
                .led
                .get(range)
                .filter(|(by, _)| *by == node)
                .map(|(_, led)| led.clone()),
        });
        let (_, after) = self.overview.known_of(NodeId(node));
        self.last += 1;
        let report = Report {
            number: self.overview.survey,
            session: 1,
            after,
            until: self.last,
            last: self.last,
            facts: Facts {
                shards: 1,
                ailing: self.ailing.get(&node).copied().unwrap_or_default(),
                ..Facts::default()
            },
            words: words.collect(),
        };
        self.overview.hear(NodeId(node), self.now_ns, report);
    }

    /// Rounds of a second each, and what is ordered in them.
    fn rounds(&mut self, count: u32) -> String {
        let mut out = String::new();
        for _ in 0..count {
            self.now_ns += SECOND;
            self.overview.begin_survey();
            for node in 1..=self.nodes {
                let lives = !self.silent.contains(&node);
                self.overview.meet(NodeId(node), lives, self.now_ns);
                if lives {
                    self.report(node);
                }
            }
            for (to, order) in self.overview.plan(self.now_ns) {
                let second = self.now_ns / SECOND;
                let _ = writeln!(out, "{second} s: {to}, {}: {:?}", order.range, order.todo);
            }
        }
        out
    }

    /// The order for a range is being carried out.
    fn begin(&mut self, range: u64) {
        let number = self.overview.order_last;
        self.led.get_mut(&range).unwrap().1.order = number;
    }
}

fn nodes(ids: &[u64]) -> Todo {
    Todo::Replicas(ids.iter().copied().map(NodeId).collect())
}

#[test]
fn a_dead_nodes_replica_is_replaced_once() {
    let mut story = Story::new(4);
    story.led.insert(2, (1, led(&[1, 2, 3], &[])));
    assert_eq!(story.rounds(10), "");
    story.silent.insert(3);
    assert_eq!(story.rounds(19), "", "not before its time");
    let ordered = story.rounds(1);
    assert_eq!(ordered, format!("30 s: n1, r2: {:?}\n", nodes(&[1, 2, 4])));
    story.begin(2);
    assert_eq!(story.rounds(60), "", "while it is under way");
    story.led.insert(2, (1, led(&[1, 2, 4], &[])));
    assert_eq!(story.rounds(30), "");
}

#[test]
fn who_says_that_its_disk_ails_leads_nothing_and_keeps_its_replicas() {
    for ailment in [Ailment::Slow, Ailment::Full] {
        let mut story = Story::new(4);
        story.led.insert(2, (1, led(&[1, 2, 3], &[])));
        assert_eq!(story.rounds(10), "");
        story.ailing.insert(1, ailment);
        let ordered = story.rounds(1);
        assert_eq!(ordered, format!("11 s: n1, r2: {:?}\n", Todo::Leader(NodeId(2))));
        story.begin(2);
        assert_eq!(story.rounds(2), "", "while it is under way");
        let taken_over = Led {
            term: 2,
            ..led(&[1, 2, 3], &[])
        };
        story.led.insert(2, (2, taken_over));
        assert_eq!(
            story.rounds(60),
            "",
            "nobody is replaced, and it does not go back"
        );
        // Of two that are slow too few are left to rely on; two that are full are still there.
        story.ailing.insert(2, ailment);
        let ordered = story.rounds(1);
        let expected = match ailment {
            Ailment::Full => format!("74 s: n2, r2: {:?}\n", Todo::Leader(NodeId(3))),
            Ailment::Slow | Ailment::None => String::new(),
        };
        assert_eq!(ordered, expected);
    }
}

#[test]
fn an_order_that_was_lost_is_given_again() {
    let mut story = Story::new(4);
    story.led.insert(2, (1, led(&[1, 2], &[])));
    let ordered = story.rounds(4);
    assert_eq!(
        ordered,
        format!("3 s: n1, r2: {0:?}\n4 s: n1, r2: {0:?}\n", nodes(&[1, 2, 3]))
    );
}

#[test]
fn an_order_ends_when_the_new_node_dies() {
    let mut story = Story::new(4);
    story.led.insert(2, (1, led(&[1, 2], &[])));
    assert!(story.rounds(3).contains("n1, r2"));
    story.led.insert(2, (1, led(&[1, 2], &[3])));
    story.begin(2);
    assert_eq!(story.rounds(5), "");
    story.silent.insert(3);
    let ordered = story.rounds(40);
    let first = ordered.lines().next().unwrap_or_default();
    assert!(
        first.ends_with(&format!("n1, r2: {:?}", nodes(&[1, 2]))),
        "{ordered}"
    );
}

#[test]
fn what_nobody_leads_is_left_alone() {
    let mut story = Story::new(4);
    story.led.insert(2, (1, led(&[1, 2], &[])));
    story.led.insert(3, (4, led(&[1, 2], &[])));
    story.rounds(2);
    story.led.remove(&3);
    let ordered = story.rounds(10);
    assert!(ordered.contains("r2") && !ordered.contains("r3"), "{ordered}");
}

#[test]
fn a_range_that_was_placed_by_hand_is_left_alone_for_a_while() {
    let mut story = Story::new(4);
    story.overview.begin_survey();
    story.overview.meet(NodeId(1), true, 0);
    let mut pinned = Word {
        range: RangeId(2),
        pinned: true,
        led: Some(led(&[1, 2], &[])),
    };
    let report = |word: &Word, number| Report {
        number,
        session: 1,
        after: 0,
        until: 1,
        last: 1,
        facts: Facts::default(),
        words: vec![word.clone()],
    };
    story.overview.hear(NodeId(1), 0, report(&pinned, 1));
    // Whoever leads next does not know of it.
    pinned.pinned = false;
    story.overview.hear(NodeId(1), 0, report(&pinned, 1));
    story.led.insert(2, (1, led(&[1, 2], &[])));
    assert_eq!(story.rounds(599), "");
    assert!(story.rounds(1).contains("n1, r2"));
}

#[test]
fn leaders_are_spread() {
    let mut story = Story::new(3);
    for range in 2..8 {
        let start = [b'a' + u8::try_from(range).unwrap()];
        let end = [start[0] + 1];
        let mut one = led(&[1, 2, 3], &[]);
        one.span = base::key::Span::new(&start, Some(&end));
        story.led.insert(range, (1, one));
    }
    let ordered = story.rounds(200);
    let leaders: BTreeSet<_> = ordered
        .lines()
        .filter_map(|line| Some(line.split_once("r")?.1.split_once(": ")?.1.to_owned()))
        .collect();
    let expected = [2, 3].map(|node| format!("{:?}", Todo::Leader(NodeId(node))));
    assert_eq!(leaders, expected.into_iter().collect(), "{ordered}");
}

#[test]
fn a_stale_leader_is_not_believed() {
    let mut story = Story::new(3);
    let mut new = led(&[1, 2, 3], &[]);
    new.term = 5;
    story.led.insert(2, (2, new));
    story.rounds(3);
    story.led.insert(2, (1, led(&[1, 2], &[])));
    assert_eq!(
        story.rounds(5),
        "",
        "its term is an earlier one, and node 2 leads no more"
    );
}

/// A cluster of four nodes with a replica of everything on the first three of them.
fn settled() -> Story {
    let mut story = Story::new(4);
    story.led.insert(2, (1, led(&[1, 2, 3], &[])));
    assert_eq!(story.rounds(5), "");
    story
}

#[test]
fn a_node_is_removed_only_when_nothing_needs_it() {
    let mut story = settled();
    let why = |story: &Story, node| story.overview.may_remove(NodeId(node)).unwrap_err();
    let refused = why(&story, 2);
    assert!(
        refused
            .message
            .contains("n2 has replicas of r2: `corelane node drain 2`")
    );
    let refused = why(&story, 4);
    assert!(refused.message.contains("n4 is live") && refused.retry_after_ms.is_none());
    story.silent.insert(4);
    story.rounds(6);
    assert!(why(&story, 4).retry_after_ms.is_some(), "it may come back");
    story.rounds(6);
    assert_eq!(story.overview.may_remove(NodeId(4)), Ok(()), "it is dead");

    let mut story = settled();
    let mut book = Book::default();
    book.standings.say(NodeId(4), Standing::Emptied, 1);
    story.overview.heed(book.digest(), &book);
    assert_eq!(story.overview.may_remove(NodeId(4)), Ok(()), "it is to go");
    story.led.remove(&2);
    story.rounds(1);
    let refused = why(&story, 4);
    assert!(refused.message.contains("no leader has reported") && refused.retry_after_ms.is_some());
}

#[test]
fn ranges_go_where_their_policy_says() {
    let mut story = settled();
    let mut book = Book::default();
    let three = |constraints| peer_wish(constraints, "");
    book.policies.say(b"m", Some(three("-zone=b")), 1).unwrap();
    story.overview.heed(book.digest(), &book);
    let ordered = story.rounds(1);
    assert!(ordered.contains("r2: Split([109])"), "{ordered}");
}

fn peer_wish(constraints: &str, preferences: &str) -> super::super::policy::Wish {
    super::super::policy::Wish::of(constraints, preferences)
}

#[test]
fn what_cannot_be_is_said() {
    let story = settled();
    let doubts = |constraints: &str, preferences: &str| {
        let mut policies = Policies::default();
        policies
            .say(b"", Some(peer_wish(constraints, preferences)), 1)
            .unwrap();
        let policy = policies.resolve(&Placement::default()).remove(0);
        story.overview.doubts(&policy).join("\n")
    };
    assert_eq!(doubts("", ""), "");
    let no_node = doubts("+region=eu", "");
    assert!(
        no_node.starts_with("no node satisfies +region=eu: replicas stay where they are"),
        "{no_node}"
    );
    assert_eq!(doubts("-region=eu", ""), "");
    let too_few = doubts("+region=eu:2", "+zone=a");
    assert!(
        too_few.contains("+region=eu:2 cannot be: no node") && too_few.contains("preference +zone=a"),
        "{too_few}"
    );
}
