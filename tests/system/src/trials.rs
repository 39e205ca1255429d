//! Trials of damage: three nodes, bits of one block of one of them turn around once, and what became of it.

use crate::flips::Kind;
use crate::run::Run;
use crate::scenario::Scenario;
use crate::swarm::try_run;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What says by which way damage was met, and its name.
const WAYS: [(&str, &str); 7] = [
    ("node: the scrub met damage", "scrub"),
    ("node: a read met damage", "read"),
    ("node: a merge met damage", "merge"),
    ("node: a flush met damage", "flush"),
    ("node: a split met damage", "split"),
    ("node: a start met damaged tables", "start (tables)"),
    ("node: a start met a damaged log", "start (log)"),
];

/// What was hit, and whether it could not be read afterwards.
type What = (Kind, bool);

fn name((kind, is_unreadable): What) -> String {
    let kind = format!("{kind:?}").to_lowercase();
    if is_unreadable {
        format!("{kind}, unreadable")
    } else {
        kind
    }
}

/// What a number of trials came to.
#[derive(Debug, Clone, Default)]
pub struct Trials {
    /// Trials.
    pub trials: u64,
    /// Bits turned around.
    pub bits: u64,
    /// Trials in which nothing was there to hit.
    pub without: u64,
    /// By kind of file and way of being met, the number of trials. `None`: nothing that was still needed was hit.
    met: BTreeMap<(What, Option<&'static str>), u64>,
    /// Trials by kind in which every damaged replica was replaced.
    repaired: BTreeMap<What, u64>,
    /// Nodes that ended with an error.
    pub stopped: u64,
    /// What was wrong, by seed.
    pub wrong: Vec<(u64, Vec<String>)>,
}

impl Trials {
    /// Runs the trial of a seed. Whether nothing was wrong: no node stopped, nothing was lost, all replicas are the same, no checksum on
    /// any disk is wrong, and no status names damage.
    pub fn add(&mut self, seed: u64) -> bool {
        self.trials += 1;
        match try_run(&Scenario::draw_trial(seed)) {
            Ok(run) => {
                self.count(&run);
                if !run.wrong.is_empty() {
                    self.wrong.push((seed, run.wrong));
                    return false;
                }
                true
            }
            Err(panic) => {
                self.wrong.push((seed, vec![panic]));
                false
            }
        }
    }

    fn count(&mut self, run: &Run) {
        self.stopped += run.failures.values().sum::<u64>();
        let Some(hit) = run.hits.first() else {
            self.without += 1;
            return;
        };
        self.bits += hit.bits;
        let reached = &run.report.probes.reached;
        let way = WAYS.iter().find(|(probe, _)| reached.contains_key(probe));
        let what = (hit.kind, hit.bits == 0);
        *self.met.entry((what, way.map(|(_, way)| *way))).or_insert(0) += 1;
        if run.wrong.is_empty() && way.is_some() {
            *self.repaired.entry(what).or_insert(0) += 1;
        }
    }

    /// The table, for people.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = format!(
            "{} trials, {} bits turned around, {} without a place to hit, {} nodes stopped, {} trials failed\n",
            self.trials,
            self.bits,
            self.without,
            self.stopped,
            self.wrong.len()
        );
        let _ = writeln!(out, "{:<21} {:<16} {:>7}", "hit", "met by", "trials");
        for ((what, way), count) in &self.met {
            let way = way.unwrap_or("not needed");
            let _ = writeln!(out, "{:<21} {way:<16} {count:>7}", name(*what));
        }
        for (what, count) in &self.repaired {
            let _ = writeln!(out, "{:<21} {:<16} {count:>7}", name(*what), "repaired");
        }
        for (seed, wrong) in &self.wrong {
            let _ = writeln!(
                out,
                "FAILED trial {seed}: {}",
                wrong.first().map_or("", String::as_str)
            );
        }
        out
    }
}
