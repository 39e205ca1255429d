//! Histories with one anomaly planted in each, and random ones.

use super::*;
use crate::history::operation::read;
use base::Prng;

/// Operations one after the other, separated by `;`; those joined by `|` at the same time, each by a process of its own.
/// Steps are `KEYaELEMENT` and `KEYr[LIST]`, joined by `,`. In front `si ` for snapshot isolation, `se ` for serializable;
/// at the end `!` for a failure, `?` for an unknown outcome.
fn history(script: &str) -> String {
    let mut lines = Vec::new();
    let mut process = 0;
    for group in script.split(';') {
        let mut ends = Vec::new();
        for word in group.split('|').map(str::trim) {
            let (word, kind) = match word.strip_suffix('!') {
                Some(word) => (word, "fail"),
                None => word.strip_suffix('?').map_or((word, "ok"), |word| (word, "info")),
            };
            let (isolation, word) = match word.split_at_checked(3) {
                Some(("si ", word)) => ("snapshot", word),
                Some(("se ", word)) => ("serializable", word),
                _ => ("strict", word),
            };
            let step = |step: &str| {
                let at = step.find(['a', 'r']).unwrap();
                let (key, rest) = (&step[..at], &step[at + 1..]);
                if step.contains('r') {
                    format!("[:r {key} {rest}]")
                } else {
                    format!("[:append {key} {rest}]")
                }
            };
            let value: Vec<_> = word.split(',').map(str::trim).map(step).collect();
            let line = |kind| {
                format!(
                    "{{:type :{kind}, :process {process}, :f :txn, :value [{}], :time 0, :isolation :{isolation}}}",
                    value.join(" ")
                )
            };
            lines.push(line("invoke"));
            ends.push(line(kind));
            process += 1;
        }
        lines.append(&mut ends);
    }
    lines.join("\n")
}

fn kinds_of(text: &str) -> Vec<&'static str> {
    let found = check(&read(text).unwrap()).unwrap();
    let mut kinds: Vec<_> = found.iter().map(|anomaly| anomaly.kind).collect();
    kinds.dedup();
    kinds
}

fn kinds(script: &str) -> Vec<&'static str> {
    kinds_of(&history(script))
}

#[test]
fn lists_that_grow_are_accepted() {
    for good in [
        "1r[]",
        "1rnil; 1a1; 1r[1]; 1a2; 1r[1 2]",
        "1a1 | 1a2; 1r[2 1]",
        "1a1 | 1r[] | 1r[1]; 1r[1]",
        // An unknown outcome shows later, or never.
        "1a1?; 1r[]; 1r[]; 1a2; 1r[2 1]",
        "1a1?; 1a2; 1r[2]",
        "1a1!; 1r[]",
        // A transaction sees its own appends.
        "1a1,1r[1],1a2,1r[1 2],2r[]; 1r[1 2]",
        "1a1,2a1 | 1r[1],2r[1]; 1r[1],2r[1]",
        "1a1,2a1? | 1r[1],2r[1]; 1r[1],2r[1]",
    ] {
        assert_eq!(kinds(good), [""; 0], "{good}");
    }
}

#[test]
fn each_violation_of_one_key_is_found() {
    for (bad, kind) in [
        ("1a1; 1r[1 1]", "duplicate element"),
        ("1a1; 1r[1 7]", "element from nowhere"),
        ("1a1!; 1r[1]", "G1a"),
        ("1a1,1a2 | 1r[1]; 1r[1 2]", "G1b"),
        ("1r[1]; 1a1", "element from the future"),
        ("1a1 | 1a2; 1r[1 2] | 1r[2 1]", "incompatible order"),
        ("1a1 | 1a2; 1r[2 1] | 1r[1]", "incompatible order"),
        ("1a1; 1a2; 1r[1]", "append not seen"),
        ("1a1; 1r[]", "append not seen"),
        ("1a1?; 1r[1]; 1r[]", "stale read"),
        ("1a1 | 1a2?; 1r[2 1]; 1r[2]", "append not seen"),
        ("1a1; 1a2; 1r[2 1]", "order against time"),
        ("1a1?; 1a2; 1r[2]; 1a3; 1r[3 2]", "order against time"),
        ("1a1?; 1r[1]; 1a2; 1r[2 1]", "append into the past"),
        ("1a1,1r[]", "own append not seen"),
        ("1a1 | 1r[],1r[1]", "two reads of one snapshot differ"),
        // These are promised at every isolation.
        ("si 1a1; si 1r[]", "append not seen"),
        ("se 1a1?; si 1r[1]; se 1r[]", "stale read"),
    ] {
        assert!(kinds(bad).contains(&kind), "{bad}: {:?}", kinds(bad));
    }
    let twice = "{:type :invoke, :process 0, :f :txn, :value [[:append 1 1]], :time 0}\n\
                 {:type :invoke, :process 1, :f :txn, :value [[:append 1 1]], :time 0}";
    assert!(check(&read(twice).unwrap()).is_err());
}

/// A script with the isolation of all its operations.
fn at(isolation: &str, script: &str) -> String {
    let mark = |word: &str| format!("{isolation} {}", word.trim());
    let group = |group: &str| group.split('|').map(mark).collect::<Vec<_>>().join("|");
    script.split(';').map(group).collect::<Vec<_>>().join(";")
}

#[test]
fn each_cycle_is_found_where_it_is_forbidden() {
    // What is found, from which isolation on: 0 snapshot, 1 serializable, 2 strict.
    for (bad, kind, from) in [
        ("1a1,2a1 | 1a2,2a2; 1r[1 2],2r[2 1]", "G0", 0),
        ("1a1,1a3 | 1a2; 1r[1 2 3]", "G0", 0),
        ("1a1,2r[2] | 2a2,1r[1]; 1r[1],2r[2]", "G1c", 0),
        ("1a1,2a1 | 1r[],2r[1]; 1r[1],2r[1]", "G-single", 0),
        // One whose outcome nobody was told, and that somebody saw.
        ("1a1,2a1? | 1r[],2r[1]; 1r[1],2r[1]", "G-single", 0),
        // A lost update.
        ("1r[],1a1 | 1r[],1a2; 1r[1 2]", "G-single", 0),
        // Two readers see two writers in different orders.
        ("1a1 | 2a1 | 1r[1],2r[] | 1r[],2r[1]; 1r[1],2r[1]", "G2-item", 0),
        // Write skew.
        ("1r[],2a1 | 2r[],1a2; 1r[2],2r[1]", "G2-item", 1),
        ("1r[],2r[],2a1 | 1r[],2r[],1a2; 1r[2],2r[1]", "G2-item", 1),
        // The same, when nobody reads what was appended.
        ("1r[],2a1 | 2r[],1a2", "G2-item", 1),
        // A third one shows the order of two that wrote nothing wrong.
        ("1r[],2r[],1a1 | 2a2 | 1r[],2r[2]; 1r[1],2r[2]", "G2-item", 1),
    ] {
        for (rank, isolation) in ["si", "se", "st"].into_iter().enumerate() {
            let script = at(isolation, bad).replace("st ", "");
            let found = kinds(&script);
            if rank >= from {
                assert!(found.contains(&kind), "{script}: {found:?}");
            } else {
                assert_eq!(found, [""; 0], "{script}");
            }
        }
    }
    // One of a mixed pair need not notice.
    assert_eq!(kinds("se 1r[],2a1 | si 2r[],1a2; 1r[2],2r[1]"), [""; 0]);
}

/// Puts lines of `script`, one operation each, into another order: `b` and `e` with its number, beginning and end.
fn interleaved(script: &str, order: &str) -> String {
    let text = history(script);
    let lines: Vec<&str> = text.lines().collect();
    let pick =
        |word: &str| lines[word[1..].parse::<usize>().unwrap() * 2 + usize::from(word.starts_with('e'))];
    order.split(' ').map(pick).collect::<Vec<_>>().join("\n")
}

#[test]
fn cycles_through_time_are_found_among_strict_ones() {
    for (bad, order, kind) in [
        // The second append follows the first, and a read has the second only.
        (
            "1a1;2a1;1r[],2r[1];1r[1],2r[1]",
            "b2 b0 e0 b1 e1 e2 b3 e3",
            "G-single against time",
        ),
        ("1r[],2r[],1a1;2a2;2r[2],1r[1]", "b1 b0 e0 e1 b2 e2", ""),
        ("1a1;2r[];2a2,1r[]", "b2 b0 e0 b1 e1 e2", "G2-item against time"),
    ] {
        let found = kinds_of(&interleaved(bad, order));
        if kind.is_empty() {
            assert_eq!(found, [""; 0], "{bad}");
            continue;
        }
        assert_eq!(found, [kind], "{bad}");
        let weaker = at("se", bad);
        assert_eq!(kinds_of(&interleaved(&weaker, order)), [""; 0], "{weaker}");
    }
}

/// A transaction of the random histories: steps, the snapshot that it reads, and what it read.
#[derive(Clone, Default)]
struct Run {
    /// Key, and the element that is appended, if it is no read.
    steps: Vec<(usize, Option<u64>)>,
    snapshot: Vec<Vec<u64>>,
    lists: Vec<Vec<u64>>,
}

impl Run {
    fn carry_out(&mut self) {
        for (key, element) in &self.steps {
            match element {
                Some(element) => self.snapshot[*key].push(*element),
                None => self.lists.push(self.snapshot[*key].clone()),
            }
        }
    }

    fn line(&self, kind: &str, process: usize, isolation: &str) -> String {
        let mut lists = self.lists.iter();
        let step = |(key, element): &(usize, Option<u64>)| match element {
            Some(element) => format!("[:append {key} {element}]"),
            None if kind == "ok" => format!("[:r {key} {:?}]", lists.next().unwrap()),
            None => format!("[:r {key} nil]"),
        };
        let steps: Vec<_> = self.steps.iter().map(step).collect();
        format!(
            "{{:type :{kind}, :process {process}, :f :txn, :value [{}], :time 0, :isolation :{isolation}}}\n",
            steps.join(" ")
        )
    }
}

/// Whether some order of these, one after the other, gives each what it read.
fn has_order(left: &[Run], state: &[Vec<u64>]) -> bool {
    left.is_empty()
        || (0..left.len()).any(|at| {
            let mut again = Run {
                steps: left[at].steps.clone(),
                snapshot: state.to_vec(),
                lists: Vec::new(),
            };
            again.carry_out();
            let mut rest = left.to_vec();
            rest.remove(at);
            again.lists == left[at].lists && has_order(&rest, &again.snapshot)
        })
}

/// Runs of snapshot isolation over three lists, of which the first committer wins, and then one that reads all. The history
/// with those that committed, in the order of their commits.
fn random(prng: &mut Prng, isolation: impl Fn(usize) -> &'static str) -> (String, Vec<Run>) {
    let mut state = vec![Vec::new(); 3];
    let (mut text, mut committed) = (String::new(), Vec::new());
    let mut open: Vec<(usize, Run)> = Vec::new();
    let (mut begun, mut element) = (0, 0);
    while begun < 5 || !open.is_empty() {
        if begun < 5 && (open.is_empty() || prng.chance(0.6)) {
            let mut run = Run::default();
            for _ in 0..prng.between(1, 3) {
                element += 1;
                run.steps
                    .push((prng.index(3), prng.chance(0.5).then_some(element)));
            }
            run.snapshot.clone_from(&state);
            text += &run.line("invoke", begun, isolation(begun));
            open.push((begun, run));
            begun += 1;
            continue;
        }
        let (process, mut run) = open.remove(prng.index(open.len()));
        let before = run.snapshot.clone();
        run.carry_out();
        let writes = |key: usize| run.steps.iter().any(|step| step.0 == key && step.1.is_some());
        if (0..3).any(|key| writes(key) && before[key] != state[key]) {
            text += &run.line("fail", process, isolation(process));
            continue;
        }
        for key in (0..3).filter(|key| writes(*key)) {
            state[key].clone_from(&run.snapshot[key]);
        }
        text += &run.line("ok", process, isolation(process));
        committed.push(run);
    }
    let mut last = Run {
        steps: (0..3).map(|key| (key, None)).collect(),
        snapshot: state,
        lists: Vec::new(),
    };
    last.carry_out();
    text += &last.line("invoke", 9, isolation(9));
    text += &last.line("ok", 9, isolation(9));
    committed.push(last);
    (text, committed)
}

#[test]
fn the_search_for_cycles_agrees_with_trying_all_orders() {
    let mut prng = Prng::new(5);
    let mut accepted = 0;
    for _ in 0..10_000 {
        let (text, committed) = random(&mut prng, |_| "serializable");
        let expected = has_order(&committed, &[const { Vec::new() }; 3]);
        let found = kinds_of(&text);
        assert_eq!(found.is_empty(), expected, "{found:?}\n{text}");
        accepted += u32::from(expected);
    }
    assert!(
        (1000..9900).contains(&accepted),
        "{accepted}: both verdicts occur"
    );
}

#[test]
fn snapshot_isolation_is_accepted_as_such() {
    let mut prng = Prng::new(6);
    for _ in 0..10_000 {
        let (text, _) = random(&mut prng, |_| "snapshot");
        assert_eq!(kinds_of(&text), [""; 0], "{text}");
    }
}
