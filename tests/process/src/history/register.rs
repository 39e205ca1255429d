//! Is each register linearizable? The search of Wing and Gong with the memory of Lowe.
//!
//! Some order of the operations must exist that a single register could have gone through, in which each operation lies
//! between its invocation and its end. The search places one operation after the other among those that may come next, and
//! remembers (set of operations placed, value): reached once more by another way, it leads nowhere new.
//!
//! Keys are independent, so each is searched by itself. An operation of unknown outcome may be placed anywhere after its
//! invocation, or left out; one whose value nobody else names is left out at once, which loses no order.
//!
//! Sources: J. Wing, C. Gong, "Testing and Verifying Concurrent Objects", 1993; G. Lowe, "Testing for linearizability", 2017.

use crate::history::edn::Edn;
use crate::history::operation::{Operation, Outcome};
use crate::history::{Anomaly, Findings};
use anyhow::{Context as _, bail, ensure};
use base::collections::FastSet;
use std::collections::BTreeMap;

/// Sets and values remembered for one key, at most: some gigabytes would follow.
const MEMORY_MAX: usize = 4_000_000;

/// What an operation does to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Read(Option<i64>),
    Write(i64),
    Cas(i64, i64),
}

impl Action {
    /// The value after it; `None` where the register could not have done it.
    fn apply(self, value: Option<i64>) -> Option<Option<i64>> {
        match self {
            Self::Read(found) => (found == value).then_some(value),
            Self::Write(new) => Some(Some(new)),
            Self::Cas(old, new) => (value == Some(old)).then_some(Some(new)),
        }
    }

    fn named(self) -> Option<i64> {
        match self {
            Self::Read(found) => found,
            Self::Write(_) => None,
            Self::Cas(old, _) => Some(old),
        }
    }

    fn left(self) -> Option<i64> {
        match self {
            Self::Read(_) => None,
            Self::Write(new) | Self::Cas(_, new) => Some(new),
        }
    }
}

/// An operation on one key. `ended` is beyond all lines when the outcome is unknown.
#[derive(Debug, Clone, Copy)]
struct Step {
    action: Action,
    began: usize,
    ended: usize,
}

/// Checks each key of a history of `corelane bench register`. Registers begin without a value.
///
/// # Errors
/// The history is not one of registers, or too many operations of a key overlap to decide.
pub fn check(history: &[Operation]) -> anyhow::Result<Vec<Anomaly>> {
    let mut keys: BTreeMap<i64, Vec<Step>> = BTreeMap::new();
    for operation in history {
        let is_read = operation.function == "read";
        let counts = match operation.outcome {
            Outcome::Ok => true,
            Outcome::Fail => false,
            Outcome::Info => !is_read,
        };
        let (key, action) = action(operation).with_context(|| format!("line {}", operation.began + 1))?;
        if counts {
            let (began, ended) = (operation.began, operation.ended);
            keys.entry(key).or_default().push(Step { action, began, ended });
        }
    }
    let mut findings = Findings::default();
    for (key, steps) in keys {
        let steps = without_unnamed(steps);
        match search(&steps).with_context(|| format!("key {key}"))? {
            Verdict::Linearizable => {}
            Verdict::Stuck { placed, at } => {
                let step = steps[at];
                let evidence = format!(
                    "key {key}: no order explains {:?}, begun at line {} and ended at line {}, after {placed} of {} operations",
                    step.action,
                    step.began + 1,
                    step.ended.saturating_add(1),
                    steps.len(),
                );
                findings.add("not linearizable", evidence);
            }
        }
    }
    Ok(findings.0)
}

fn action(operation: &Operation) -> anyhow::Result<(i64, Action)> {
    let pair = operation.told.vector().context("the value is no pair")?;
    let [key, value] = pair else {
        bail!("the value is no pair")
    };
    let key = key.int().context("the key is no number")?;
    let action = match operation.function.as_str() {
        "read" => {
            ensure!(
                *value == Edn::Nil || value.int().is_some(),
                "what is read is no number"
            );
            Action::Read(value.int())
        }
        "write" => Action::Write(value.int().context("what is written is no number")?),
        "cas" => match value.vector() {
            Some([old, new]) => Action::Cas(
                old.int().context("what is expected is no number")?,
                new.int().context("what is written is no number")?,
            ),
            Some(_) | None => bail!("a compare-and-set has two values"),
        },
        other => bail!("a register has no operation :{other}"),
    };
    Ok((key, action))
}

/// Without those of unknown outcome whose value nobody names: had they happened, nobody would know.
fn without_unnamed(mut steps: Vec<Step>) -> Vec<Step> {
    let named: FastSet<i64> = steps.iter().filter_map(|step| step.action.named()).collect();
    steps.retain(|step| {
        step.ended != usize::MAX || step.action.left().is_some_and(|value| named.contains(&value))
    });
    steps
}

enum Verdict {
    Linearizable,
    /// The longest try placed this many, and could go no further because of the step `at`.
    Stuck {
        placed: usize,
        at: usize,
    },
}

/// Invocations and ends in the order of the history, as a list from which placed operations are lifted.
struct Events {
    /// The step of each event; events with `is_call` are invocations.
    step: Vec<usize>,
    is_call: Vec<bool>,
    /// The event of each step's end.
    end_of: Vec<usize>,
    /// Neighbours in the list; position 0 is the head, event `i` is at position `i + 1`, and the last position is the end.
    next: Vec<usize>,
    before: Vec<usize>,
}

impl Events {
    fn new(steps: &[Step]) -> Self {
        let mut order: Vec<(usize, bool, usize)> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            order.push((step.began, true, at));
            order.push((step.ended, false, at));
        }
        order.sort_unstable();
        let count = order.len();
        let mut end_of = vec![0; steps.len()];
        for (position, &(_, is_call, at)) in (1..).zip(&order) {
            if !is_call {
                end_of[at] = position;
            }
        }
        Self {
            step: order.iter().map(|&(_, _, at)| at).collect(),
            is_call: order.iter().map(|&(_, is_call, _)| is_call).collect(),
            end_of,
            next: (1..=count + 1).chain([count + 1]).collect(),
            before: core::iter::once(0).chain(0..=count).collect(),
        }
    }

    fn unlink(&mut self, position: usize) {
        let (before, next) = (self.before[position], self.next[position]);
        self.next[before] = next;
        self.before[next] = before;
    }

    /// Undoes the last [`Self::unlink`] that was not undone.
    fn link(&mut self, position: usize) {
        let (before, next) = (self.before[position], self.next[position]);
        self.next[before] = position;
        self.before[next] = position;
    }
}

fn search(steps: &[Step]) -> anyhow::Result<Verdict> {
    let mut events = Events::new(steps);
    let certain = |at: usize| usize::from(steps[at].ended != usize::MAX);
    let mut left: usize = (0..steps.len()).map(certain).sum();
    let mut placed = vec![0_u64; steps.len().div_ceil(64)];
    let mut seen: FastSet<(Vec<u64>, Option<i64>)> = FastSet::default();
    let mut stack: Vec<(usize, Option<i64>)> = Vec::new();
    let mut value = None;
    let mut stuck = (0, 0);
    let mut position = events.next[0];
    while left > 0 {
        // A certain step is left, so its end is still in the list: the end of the list is never reached.
        let at = events.step[position - 1];
        if events.is_call[position - 1] {
            if let Some(after) = steps[at].action.apply(value) {
                placed[at / 64] |= 1 << (at % 64);
                if seen.insert((placed.clone(), after)) {
                    ensure!(seen.len() < MEMORY_MAX, "too many operations overlap to decide");
                    stack.push((position, value));
                    value = after;
                    left -= certain(at);
                    events.unlink(position);
                    events.unlink(events.end_of[at]);
                    position = events.next[0];
                    continue;
                }
                placed[at / 64] &= !(1 << (at % 64));
            }
            position = events.next[position];
        } else {
            if stack.len() >= stuck.0 {
                stuck = (stack.len(), at);
            }
            let Some((undone, earlier)) = stack.pop() else {
                return Ok(Verdict::Stuck {
                    placed: stuck.0,
                    at: stuck.1,
                });
            };
            let at = events.step[undone - 1];
            events.link(events.end_of[at]);
            events.link(undone);
            placed[at / 64] &= !(1 << (at % 64));
            left += certain(at);
            value = earlier;
            position = events.next[undone];
        }
    }
    Ok(Verdict::Linearizable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::operation::read;
    use base::Prng;
    use std::fmt::Write as _;

    /// Each line: `PROCESS TYPE FUNCTION VALUE`.
    fn verdict(script: &str) -> usize {
        let mut text = String::new();
        for (time, line) in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .enumerate()
        {
            let parts: Vec<_> = line.splitn(4, ' ').collect();
            let [process, kind, function, value] = parts[..] else {
                panic!("{line}")
            };
            writeln!(
                text,
                "{{:type :{kind}, :process {process}, :f :{function}, :value {value}, :time {time}}}"
            )
            .unwrap();
        }
        check(&read(&text).unwrap()).unwrap().len()
    }

    const WRITTEN: &str = "0 invoke write [1 5]\n0 ok write [1 5]\n";

    fn after_write(rest: &str) -> usize {
        verdict(&format!("{WRITTEN}{rest}"))
    }

    #[test]
    fn what_a_register_may_do_is_accepted() {
        assert_eq!(verdict(""), 0);
        assert_eq!(verdict("0 invoke read [1 nil]\n0 ok read [1 nil]"), 0);
        assert_eq!(after_write("1 invoke read [1 nil]\n1 ok read [1 5]"), 0);
        // Reads beside a write see either value, the earlier one first.
        assert_eq!(
            after_write(
                "0 invoke write [1 6]\n1 invoke read [1 nil]\n1 ok read [1 5]\n1 invoke read [1 nil]\n1 ok read [1 6]\n\
                 0 ok write [1 6]"
            ),
            0
        );
        assert_eq!(after_write("1 invoke cas [1 [5 6]]\n1 ok cas [1 [5 6]]"), 0);
        // Keys are independent.
        assert_eq!(after_write("1 invoke read [2 nil]\n1 ok read [2 nil]"), 0);
    }

    #[test]
    fn stale_reads_are_rejected() {
        assert_eq!(after_write("1 invoke read [1 nil]\n1 ok read [1 nil]"), 1);
        assert_eq!(
            after_write("0 invoke write [1 6]\n0 ok write [1 6]\n1 invoke read [1 nil]\n1 ok read [1 5]"),
            1
        );
        // Beside the write, but back from the new value to the old one.
        assert_eq!(
            after_write(
                "0 invoke write [1 6]\n1 invoke read [1 nil]\n1 ok read [1 6]\n1 invoke read [1 nil]\n1 ok read [1 5]\n\
                 0 ok write [1 6]"
            ),
            1
        );
    }

    #[test]
    fn lost_updates_are_rejected() {
        // Both exchange the same value: one of them overwrote the other.
        assert_eq!(
            after_write(
                "1 invoke cas [1 [5 6]]\n2 invoke cas [1 [5 7]]\n1 ok cas [1 [5 6]]\n2 ok cas [1 [5 7]]"
            ),
            1
        );
    }

    #[test]
    fn values_from_nowhere_are_rejected() {
        assert_eq!(after_write("1 invoke read [1 nil]\n1 ok read [1 9]"), 1);
        // A write that failed did not happen.
        assert_eq!(
            after_write("0 invoke write [1 6]\n0 fail write [1 6]\n1 invoke read [1 nil]\n1 ok read [1 6]"),
            1
        );
        // Nor is a value there before its write is begun.
        assert_eq!(
            verdict("1 invoke read [1 nil]\n1 ok read [1 5]\n0 invoke write [1 5]\n0 ok write [1 5]"),
            1
        );
    }

    #[test]
    fn an_exchange_of_a_value_that_is_not_there_is_rejected() {
        assert_eq!(after_write("1 invoke cas [1 [4 6]]\n1 ok cas [1 [4 6]]"), 1);
        assert_eq!(verdict("1 invoke cas [1 [4 6]]\n1 ok cas [1 [4 6]]"), 1);
    }

    #[test]
    fn unknown_outcomes_take_effect_later_or_never() {
        let lost = "1 invoke write [1 6]\n1 info write [1 6]\n";
        let reads = |values: &[u64]| {
            let lines = values
                .iter()
                .map(|value| format!("2 invoke read [1 nil]\n2 ok read [1 {value}]\n"));
            after_write(&format!("{lost}{}", lines.collect::<String>()))
        };
        assert_eq!(reads(&[5, 5]), 0);
        assert_eq!(reads(&[5, 5, 6]), 0);
        assert_eq!(reads(&[6]), 0);
        // But once only, and for good.
        assert_eq!(reads(&[5, 6, 5]), 1);
        // An exchange of unknown outcome explains one value, and needs the other.
        let lost = "1 invoke cas [1 [5 6]]\n1 info cas [1 [5 6]]\n2 invoke read [1 nil]\n2 ok read [1 6]";
        assert_eq!(after_write(lost), 0);
        assert_eq!(verdict(lost), 1);
        // An operation without any end is one of them.
        assert_eq!(
            after_write("1 invoke write [1 6]\n2 invoke read [1 nil]\n2 ok read [1 6]"),
            0
        );
    }

    /// All orders, tried one by one.
    fn by_force(steps: &[Step], done: u32, value: Option<i64>) -> bool {
        let left = |at: usize| done & (1 << at) == 0;
        let all = (0..steps.len()).filter(|at| left(*at));
        if all.clone().all(|at| steps[at].ended == usize::MAX) {
            return true;
        }
        let first_end = all.clone().map(|at| steps[at].ended).min().unwrap();
        all.filter(|at| steps[*at].began < first_end).any(|at| {
            let after = steps[at].action.apply(value);
            after.is_some_and(|after| by_force(steps, done | 1 << at, after))
        })
    }

    #[test]
    fn the_search_agrees_with_trying_all_orders() {
        let mut prng = Prng::new(11);
        let mut accepted = 0;
        for _ in 0..20_000 {
            let count = 1 + prng.index(7);
            let steps: Vec<_> = (0..count)
                .map(|_| {
                    let value = |prng: &mut Prng| i64::try_from(prng.below(3)).unwrap();
                    let action = match prng.below(4) {
                        0 => Action::Read(prng.chance(0.9).then(|| value(&mut prng))),
                        1 => Action::Cas(value(&mut prng), value(&mut prng)),
                        2 => Action::Write(value(&mut prng)),
                        _ => Action::Read(Some(value(&mut prng))),
                    };
                    let began = prng.index(30);
                    let is_read = matches!(action, Action::Read(_));
                    let ended = if !is_read && prng.chance(0.3) {
                        usize::MAX
                    } else {
                        began + 1 + prng.index(12)
                    };
                    // No two events on one line: invocations on even lines, ends on odd ones, and a tie is an overlap.
                    Step {
                        action,
                        began: began * 2,
                        ended: ended.saturating_mul(2).saturating_add(1),
                    }
                })
                .collect();
            let expected = by_force(&steps, 0, None);
            let kept = without_unnamed(steps.clone());
            let found = matches!(search(&kept).unwrap(), Verdict::Linearizable);
            assert_eq!(found, expected, "{steps:?}");
            accepted += u32::from(found);
        }
        assert!(
            (2000..18_000).contains(&accepted),
            "{accepted}: both verdicts occur"
        );
    }
}
