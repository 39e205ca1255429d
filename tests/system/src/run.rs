//! One run: a scenario from its first start to its verdict.
//!
//! ```text
//!   storm    clients call; the node crashes, recovers, is stopped, is started with other shards
//!   calm     faults end, the disk gets room; what is open must end in time, what is left of the budget too
//!   proof    every key is read, forwards, backwards and singly; replicas are compared; the nodes stop; every checksum is verified
//!   verdict  the checkers judge the history
//! ```

use crate::bank::{self, Bank};
use crate::check;
use crate::client::{Client, Counts};
use crate::flips::{self, Hit};
use crate::history::{Action, History, Outcome, Seconds};
use crate::process::{Exit, Process};
use crate::replicas;
use crate::scenario::{Mode, PORT, Scenario};
use crate::words::Words;
use crate::workload::Workload;
use base::api::ReadAt;
use base::{NodeId, Prng, ShardId};
use core::time::Duration;
use disks::Disks;
use env::Instant;
use node::{Cluster, Member, NodeConfig, Version};
use sim::{Fault, Report, Sim, SimNodeId};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use upgrades::Upgrading;
use wire::Code;

mod disks;
mod last_looks;
mod mistake;
mod upgrades;

pub use upgrades::Upgraded;

/// What a run did.
#[derive(Debug, Clone)]
pub struct Run {
    /// What the simulator counted.
    pub report: Report,
    /// What was wrong; empty for a good run.
    pub wrong: Vec<String>,
    /// Calls by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// What clients counted.
    pub counts: Counts,
    /// Refusals of all tries, by code.
    pub refusals: BTreeMap<String, u64>,
    /// Times that the node lost power or was killed.
    pub crashes: u64,
    /// Times that the node ended with an error, by its text up to the first digit.
    pub failures: BTreeMap<String, u64>,
    /// Whether the node refused to go on because of damage, as it may in a run with damage.
    pub refused: bool,
    /// What became of the node, for people.
    pub journal: Vec<String>,
    /// What was hit on the disk of the node whose bits turn around.
    pub hits: Vec<Hit>,
    /// What became of the nodes' builds.
    pub upgraded: Upgraded,
    /// All calls.
    pub history: Rc<History>,
}

/// A run under way.
struct Runner {
    scenario: Rc<Scenario>,
    sim: Sim,
    /// One for each node.
    processes: Vec<Process>,
    history: Rc<History>,
    workload: Rc<Workload>,
    clients: Vec<Rc<Client>>,
    /// Who sets policies.
    words: Option<Rc<Words>>,
    /// Whose tellers run transactions.
    bank: Option<Rc<Bank>>,
    /// The machine on which they run.
    machine: SimNodeId,
    prng: Prng,
    /// What is wrong with disks.
    disks: Disks,
    /// Of which builds the nodes are, where they are of several.
    upgrading: Option<Upgrading>,
    /// Draws when a node is started with an empty disk: by itself, so that what else happens is drawn as without.
    mistakes: Prng,
    wrong: Vec<String>,
    crashes: u64,
    failures: BTreeMap<String, u64>,
    journal: Vec<String>,
    hits: Vec<Hit>,
    /// Starts that failed in a row, by node.
    refusals: Vec<u32>,
}

/// Failed starts in a row after which a damaged node is given up.
const REFUSALS_MAX: u32 = 5;

/// What node `at` is told.
fn node_config(scenario: &Scenario, at: u16) -> NodeConfig {
    let mut config = scenario.node.clone();
    if scenario.nodes > 1 {
        let id = |at: u16| NodeId(u64::from(at) + 1);
        let member = |at: u16| Member::new(id(at), Sim::address_of(SimNodeId(at.into()), PORT));
        // Who joins is told of the founders only, and they of nobody who joins.
        let founders: Vec<_> = (0..scenario.founders).collect();
        let is_founder = at < scenario.founders;
        let (nodes, seeds) = if is_founder {
            (founders.iter().copied().map(member).collect(), Vec::new())
        } else {
            (vec![member(at)], founders.iter().copied().map(member).collect())
        };
        let cluster = Cluster {
            liveness: scenario.liveness,
            tick: scenario.tick,
            placement: scenario.placement.clone(),
            closed_lag: scenario.closed_lag,
            closed_interval: scenario.closed_interval,
            begins: match scenario.upgrades {
                Some(_) => Version::FIRST,
                None => Version::NEWEST,
            },
            seeds,
            founders: founders.into_iter().filter(|_| is_founder).map(id).collect(),
            ..Cluster::new(u128::from(scenario.seed) + 1, id(at), nodes)
        };
        config.cluster = Some(Arc::new(cluster));
    }
    config
}

/// Runs a scenario.
#[must_use]
pub fn run(scenario: &Scenario) -> Run {
    let mut runner = Runner::new(scenario);
    let storm_end = runner.sim.now() + scenario.storm;
    runner.storm(storm_end);
    runner.calm();
    let alive = runner.finish();
    if alive {
        runner.prove();
    }
    runner.judge(alive)
}

impl Runner {
    fn new(scenario: &Scenario) -> Self {
        let scenario = Rc::new(scenario.clone());
        let mut prng = Prng::new(scenario.seed ^ 0x7275_6e6e_6572_0001);
        let mut sim = Sim::new(scenario.seed, scenario.sim.clone());
        let mut processes: Vec<_> = (0..scenario.nodes)
            .map(|at| {
                let shards = scenario.shards[usize::from(at)];
                Process::new(&mut sim, node_config(&scenario, at), shards)
            })
            .collect();
        let upgrading = scenario
            .upgrades
            .as_ref()
            .map(|drawn| Upgrading::new(scenario.seed, drawn));
        if let Some(upgrading) = &upgrading {
            for (at, process) in processes.iter_mut().enumerate() {
                process.set_speaks(upgrading.speaks(at));
            }
        }
        let machine = sim.add_node(1);
        let env = sim.env(machine, ShardId(0));
        let history = Rc::new(History::default());
        let workload = Workload::new(scenario.clone(), history.clone(), env.clone(), prng.fork());
        let addresses: Vec<_> = processes
            .iter()
            .map(|process| sim.address(process.node(), PORT))
            .collect();
        let clients: Vec<_> = (0..scenario.clients)
            .map(|_| {
                Client::new(
                    env.clone(),
                    addresses.clone(),
                    scenario.keys,
                    scenario.habits,
                    prng.fork(),
                )
            })
            .collect();
        for (at, process) in processes.iter_mut().enumerate() {
            // On the machine of one that is late nothing runs yet.
            if !scenario.upgrades.as_ref().is_some_and(|drawn| drawn.late[at]) {
                process.run(&sim);
            }
        }
        let mut number = 0;
        for client in &clients {
            for _ in 0..scenario.outstanding {
                sim.spawn(Some(machine), workload.clone().work(client.clone(), number));
                number += 1;
            }
        }
        let words = (scenario.policies && scenario.placement.is_some()).then(|| {
            // Who has a damaged replica takes part in nothing: the others must be most of all.
            let replicas_min = if scenario.flips.is_none() { 1 } else { 3 };
            Words::new(
                env.clone(),
                addresses.clone(),
                scenario.keys,
                replicas_min,
                prng.fork(),
            )
        });
        if let Some(words) = &words {
            sim.spawn(Some(machine), words.clone().work());
        }
        let mut dice = Prng::new(scenario.seed ^ 0x6261_6e6b_6261_6e6b);
        let bank = scenario.bank.then(|| {
            let bound_ns = match scenario.nodes {
                1 => scenario.node.clock_offset_max.as_nanos(),
                _ => scenario.liveness.clock_offset_ns_max.into(),
            };
            let bound_ns = u64::try_from(bound_ns).expect("far below 500 years");
            Bank::new(env.clone(), addresses.clone(), bound_ns, dice.fork())
        });
        for at in 0..bank::TELLERS {
            if let Some(bank) = &bank {
                sim.spawn(Some(machine), bank.clone().work(at));
            }
        }
        Self {
            words,
            bank,
            refusals: vec![0; processes.len()],
            disks: Disks::new(scenario.seed),
            upgrading,
            mistakes: Prng::new(scenario.seed ^ 0x6d69_7374_616b_6573),
            scenario,
            sim,
            processes,
            history,
            workload,
            clients,
            machine,
            prng,
            wrong: Vec::new(),
            crashes: 0,
            failures: BTreeMap::new(),
            journal: Vec::new(),
            hits: Vec::new(),
        }
    }

    /// The first phase.
    fn storm(&mut self, end: Instant) {
        let mut next_crash = self.calls_until_crash();
        let mut next_flip = self.calls_until_flip();
        while self.sim.now() < end && self.wrong.is_empty() && self.history.violations().is_empty() {
            let step = self.prng.between(1, 3_000_000);
            self.sim.run_for(Duration::from_nanos(step));
            if self.workload.is_done() && self.history.begun() > 0 {
                return;
            }
            if !self.supervise() {
                return;
            }
            self.tend_disks();
            self.tend_upgrades();
            if self.history.ended() >= next_crash {
                self.trouble();
                next_crash = self.calls_until_crash();
            }
            if self.history.ended() >= next_flip {
                self.flip();
                next_flip = self.calls_until_flip();
            }
        }
    }

    fn calls_until_flip(&mut self) -> u64 {
        match self.scenario.flips {
            Some(flips) if !flips.at_end && flips.times > self.hits.len() as u64 => {
                self.history.ended() + self.prng.between(1, flips.every * 2)
            }
            Some(_) | None => u64::MAX,
        }
    }

    /// Turns bits around on the victim's disk: while it runs, or while it does not.
    fn flip(&mut self) {
        let Some(flips) = self.scenario.flips else { return };
        let at = usize::from(flips.victim);
        let node = self.processes[at].node();
        let is_at_rest = self.prng.chance(0.4);
        if is_at_rest {
            self.note(at, "down, for bits to turn around");
            self.crashes += 1;
            if self.prng.chance(0.5) {
                self.sim.kill(node);
            } else {
                self.sim.crash(node);
            }
        }
        if let Some(hit) = flips::flip(&mut self.sim, node, &flips, &mut self.prng) {
            self.note(at, &format!("{hit:?}"));
            self.hits.push(hit);
        }
        if is_at_rest {
            self.start(at);
        }
    }

    fn calls_until_crash(&mut self) -> u64 {
        self.history.ended() + self.prng.between(1, self.scenario.crash_every * 2)
    }

    /// Starts processes again that have ended by themselves. `false` when one has refused too often to go on with faults.
    fn supervise(&mut self) -> bool {
        (0..self.processes.len()).all(|at| self.supervise_one(at))
    }

    fn supervise_one(&mut self, at: usize) -> bool {
        let process = &self.processes[at];
        let Some(exit) = process.exit() else {
            if process.is_ready() {
                self.refusals[at] = 0;
            }
            return true;
        };
        if let Exit::Failed { error, served } = exit {
            self.note_failure(at, &error);
            self.refusals[at] = if served { 0 } else { self.refusals[at] + 1 };
        }
        self.sim.kill(self.processes[at].node());
        let pause = self.prng.between(1, 200);
        self.sim.run_for(Duration::from_millis(pause));
        self.start(at);
        self.refusals[at] < REFUSALS_MAX
    }

    fn note_failure(&mut self, at: usize, error: &str) {
        if self.heed_outdated(at, error) {
            return;
        }
        self.note(at, error);
        let text = error.split_once(": ").map_or(error, |(_, text)| text);
        let kind: String = text
            .chars()
            .map(|c| if c.is_ascii_digit() { '#' } else { c })
            .collect();
        *self.failures.entry(kind).or_insert(0) += 1;
        let may_fail = match self.scenario.mode {
            Mode::Survivable => false,
            // A build is told what it does not know.
            Mode::Errors if error.contains("what came with version") => false,
            Mode::Errors => !is_damage(error),
            Mode::Damage => true,
        };
        if !may_fail {
            self.wrong.push(format!("the node failed: {error}"));
        }
    }

    fn note(&mut self, at: usize, what: &str) {
        let seconds = Seconds(self.sim.now().0).as_f64();
        let (progress, calls) = (self.processes[at].progress(), self.history.begun());
        let line = format!("{seconds:.6} s, {calls} calls, node {at}, {progress}: {what}");
        self.journal.push(line);
    }

    fn start(&mut self, at: usize) {
        self.choose_build(at);
        let mut shards = self.processes[at].shards();
        if self.prng.chance(self.scenario.reshard) {
            let drawn = 1 + self.prng.below(crate::SHARDS_MAX.into());
            shards = u16::try_from(drawn).expect("drawn below");
        }
        self.processes[at].restart(&mut self.sim, shards);
        self.note(at, &format!("start with {shards} shards"));
    }

    /// What happens to nodes: mostly that one crashes. In a cluster also what a leader must not survive as one while its clients
    /// still reach it, and what a quorum loses that is not durable.
    fn trouble(&mut self) {
        let at = self.prng.index(self.processes.len());
        if let Some(placement) = &self.scenario.placement
            && self.prng.chance(0.1)
        {
            let replace_after = Duration::from_nanos(placement.plan.dead_after_ns);
            return self.outage(at, replace_after);
        }
        if self.scenario.flips.is_none() && self.mistakes.chance(0.04) && self.is_known(at) {
            return self.mistake(at);
        }
        let kind = if self.processes.len() == 1 {
            0
        } else {
            self.prng.below(10)
        };
        match kind {
            0..5 => self.crash(at),
            5..8 => {
                self.isolate(at);
                if self.prng.chance(0.5) {
                    let pause = self.prng.below(1_000_000_000);
                    self.sim.run_for(Duration::from_nanos(pause));
                    let other = self.prng.index(self.processes.len());
                    self.crash(other);
                }
            }
            8 => {
                let pause = Duration::from_millis(self.prng.between(100, 4_000));
                self.note(at, &format!("pause of {pause:?}"));
                self.sim.pause(self.processes[at].node(), pause);
            }
            _ => self.black_out(),
        }
    }

    /// A node is gone for so long that others may take the place of its replicas.
    fn outage(&mut self, at: usize, replace_after: Duration) {
        let millis = u64::try_from(replace_after.as_millis()).unwrap_or(u64::MAX);
        let time = Duration::from_millis(self.prng.between(millis / 2, millis * 3));
        self.note(at, &format!("gone for {time:?}"));
        self.crashes += 1;
        self.sim.kill(self.processes[at].node());
        self.sim.run_for(time);
        self.start(at);
    }

    /// Cuts a node off from all others, not from clients: what it sends, what it is sent, or both.
    fn isolate(&mut self, at: usize) {
        let time = Duration::from_millis(self.prng.between(100, 4_000));
        let (sends, hears) = match self.prng.below(4) {
            0 => (false, true),
            1 => (true, false),
            _ => (false, false),
        };
        self.note(
            at,
            &format!("isolated for {time:?}, sends: {sends}, hears: {hears}"),
        );
        let node = self.processes[at].node();
        for other in self
            .processes
            .iter()
            .map(Process::node)
            .filter(|other| *other != node)
        {
            if !sends {
                self.sim.cut(node, other, time);
            }
            if !hears {
                self.sim.cut(other, node, time);
            }
        }
    }

    /// Several nodes, perhaps all, lose power at once, and come back one after the other.
    fn black_out(&mut self) {
        let mut dark: Vec<usize> = (0..self.processes.len()).collect();
        self.prng.shuffle(&mut dark);
        dark.truncate(2 + self.prng.index(self.processes.len() - 1));
        for &at in &dark {
            self.note(at, "power loss of several nodes");
            self.crashes += 1;
            self.sim.crash(self.processes[at].node());
        }
        for at in dark {
            let down = self.prng.below(300);
            self.sim.run_for(Duration::from_millis(down));
            self.start(at);
        }
    }

    /// Ends a process in one of three ways and starts it again, perhaps to crash while it recovers.
    fn crash(&mut self, at: usize) {
        loop {
            let pause = self.prng.below(2_000_000);
            self.sim.run_for(Duration::from_nanos(pause));
            let node = self.processes[at].node();
            match self.prng.below(6) {
                0 => self.stop_for_a_while(at, "stop"),
                1 => {
                    self.note(at, "kill");
                    self.crashes += 1;
                    self.sim.kill(node);
                }
                _ => {
                    self.note(at, "power loss");
                    self.crashes += 1;
                    self.sim.crash(node);
                }
            }
            let down = if self.prng.chance(0.7) {
                1
            } else {
                self.prng.between(1, 2_000)
            };
            self.sim.run_for(Duration::from_millis(down));
            self.start(at);
            if !self.prng.chance(self.scenario.crash_again) {
                return;
            }
        }
    }

    /// Asks a process to end, and waits for it a while.
    fn stop_for_a_while(&mut self, at: usize, why: &str) {
        self.note(at, why);
        self.processes[at].stop();
        let end = self.sim.now() + Duration::from_secs(5);
        while self.processes[at].exit().is_none() && self.sim.now() < end {
            self.sim.run_for(Duration::from_millis(1));
        }
        if let Some(Exit::Failed { error, .. }) = self.processes[at].exit() {
            self.note_failure(at, &error);
        }
        self.sim.kill(self.processes[at].node());
    }

    /// The second phase begins.
    fn calm(&mut self) {
        self.note(0, "calm");
        self.end_ailing();
        self.sim.calm();
        for process in &self.processes {
            self.sim.set_disk_config(process.node(), sim::DiskConfig::calm());
        }
        self.refusals.fill(0);
        if let Some(words) = &self.words {
            words.stop();
        }
        if let Some(bank) = &self.bank {
            bank.stop();
        }
        if self.scenario.flips.is_some_and(|flips| flips.at_end) {
            self.flip();
        }
        if let Some(flips) = self.scenario.flips.filter(|_| !self.hits.is_empty()) {
            // What is damaged of the log is seen by a start.
            let at = usize::from(flips.victim);
            self.sim.kill(self.processes[at].node());
            self.start(at);
        }
        self.end_upgrades();
        for client in &self.clients {
            client.set_habits(self.scenario.habits_calm());
            // A connection keeps the speed that it was given.
            client.hang_up();
        }
    }

    /// Runs until the budget is used up. Says whether the node serves.
    fn finish(&mut self) -> bool {
        // What a disk was asked for before it became calm may still fail.
        let settled = self.sim.now() + Duration::from_secs(1);
        while self.sim.now() < settled {
            self.sim.run_for(Duration::from_millis(1));
            if !self.supervise() {
                return self.give_up("the node does not start");
            }
        }
        let mut end = self.sim.now() + self.scenario.finish;
        let mut open_before = self.history.begun();
        while !self.workload.is_done() && self.wrong.is_empty() && self.history.violations().is_empty() {
            self.sim.run_for(Duration::from_millis(1));
            if !self.supervise() {
                return self.give_up("the node does not start");
            }
            if self.sim.now() >= end {
                let calls = self.history.calls();
                let stuck = calls[..usize::try_from(open_before).expect("few calls")]
                    .iter()
                    .position(|call| call.tries == 0);
                if let Some(stuck) = stuck {
                    let what = format!(
                        "call {stuck} ({:?}) does not end in calm weather",
                        calls[stuck].action
                    );
                    return self.give_up(&what);
                }
                end = self.sim.now() + self.scenario.finish;
                open_before = self.history.begun();
            }
        }
        true
    }

    /// The node does not serve any more: allowed when its disk is damaged.
    fn give_up(&mut self, what: &str) -> bool {
        self.note(0, what);
        if self.scenario.mode != Mode::Damage {
            let failures: Vec<_> = self.failures.keys().collect();
            self.wrong.push(format!("{what}; it said {failures:?}"));
        }
        self.workload.close();
        false
    }

    /// Reads everything, then looks at every byte on disk.
    fn prove(&mut self) {
        if !self.wrong.is_empty() {
            return;
        }
        let client = self.clients[0].clone();
        let workload = self.workload.clone();
        let count = self.scenario.keys.count();
        let proof = async move {
            for reverse in [false, true] {
                let scan = |_| Action::Scan {
                    start: 0,
                    end: count,
                    reverse,
                    at: ReadAt::Newest,
                };
                workload.call(&client, u16::MAX, scan).await;
            }
            for key in 0..count {
                workload
                    .call(&client, u16::MAX, |_| Action::Get(key, ReadAt::Newest))
                    .await;
            }
            workload.call(&client, u16::MAX, |_| Action::RangeMap).await;
        };
        let limit = self.sim.now() + self.scenario.finish;
        if let Err(stuck) = self.sim.block_on_until(limit, proof) {
            self.give_up(&format!("the last reads do not end: {stuck}"));
            return;
        }
        if !self.check_versions() || !self.check_bank() || !self.check_words() || !self.compare_replicas() {
            return;
        }
        self.last_looks();
    }

    /// Whether all money is there, and transactions end.
    fn check_bank(&mut self) -> bool {
        let Some(bank) = &self.bank else {
            return true;
        };
        let limit = self.sim.now() + self.scenario.finish;
        match self.sim.block_on_until(limit, bank.clone().check()) {
            Ok(wrong) => {
                self.wrong.extend(wrong);
                true
            }
            Err(stuck) => {
                self.wrong.extend(bank.wrong());
                self.give_up(&format!("transactions do not end in calm weather: {stuck}"))
            }
        }
    }

    /// Whether what was said of policies is remembered. They are removed.
    fn check_words(&mut self) -> bool {
        let Some(words) = &self.words else {
            return true;
        };
        let limit = self.sim.now() + self.scenario.finish;
        match self.sim.block_on_until(limit, words.clone().check()) {
            Ok(wrong) => {
                let lies = self.scenario.mode == Mode::Damage;
                self.wrong.extend(wrong.into_iter().filter(|_| !lies));
                true
            }
            Err(stuck) => self.give_up(&format!(
                "policies are not told, or not removed, in calm weather: {stuck}"
            )),
        }
    }

    /// Whether the replicas of each range are the same, and known to be.
    fn compare_replicas(&mut self) -> bool {
        if self.processes.len() == 1 {
            return true;
        }
        let env = self.sim.env(self.machine, ShardId(0));
        let processes = self.processes.iter();
        let addresses = processes.map(|process| self.sim.address(process.node(), PORT));
        // Who looks after replicas sees to it that there are as many as wished, as far as there are nodes.
        let placement = self.scenario.placement.as_ref();
        let nodes = self.processes.len();
        let wanted =
            placement.map(|placement| nodes.min(usize::try_from(placement.replicas).unwrap_or(nodes)));
        // One that may have begun before the last damage, and one after it.
        let scrubs = if self.hits.is_empty() { 0 } else { 2 };
        // Each table that is checked costs a pause, and where partitions are made short on purpose there are hundreds.
        let patience = self.scenario.finish * (1 + 2 * u32::try_from(scrubs).expect("few"));
        let comparison = replicas::compare(env, addresses.collect(), wanted, patience, scrubs);
        let limit = self.sim.now() + patience + self.scenario.finish;
        match self.sim.block_on_until(limit, comparison) {
            Ok(wrong) => {
                self.wrong.extend(wrong);
                true
            }
            Err(stuck) => self.give_up(&format!("the replicas cannot be compared: {stuck}")),
        }
    }

    fn judge(mut self, alive: bool) -> Run {
        let calls = self.history.calls();
        self.wrong.extend(self.history.violations());
        // A disk that acknowledges a write and drops it or puts it elsewhere hides the last batch before a crash, and one
        // replica cannot know. What is read must still be what somebody wrote: clients have looked at every value.
        let faults = self.sim.fault_counts();
        let lied = [Fault::WriteLost, Fault::WriteMisdirected];
        let may_lose = lied.iter().any(|fault| faults.contains_key(fault));
        if !(self.scenario.mode == Mode::Damage && may_lose) {
            self.wrong.extend(check::check(&self.scenario.keys, &calls));
            if self.scenario.nodes > 1 {
                let bound_ns = self.scenario.liveness.clock_offset_ns_max;
                check::age::check(bound_ns, &calls, &mut self.wrong);
            }
        }
        let mut outcomes = BTreeMap::new();
        for call in &calls {
            *outcomes.entry(name(&call.outcome)).or_insert(0) += 1;
            if call.outcome == Outcome::Refused(Code::Corruption) && self.scenario.mode != Mode::Damage {
                self.wrong.push(format!(
                    "{:?} met corruption on a disk without damage",
                    call.action
                ));
            }
        }
        if let Some(bank) = &self.bank {
            outcomes.insert("transferred", bank.committed());
        }
        let (mut counts, mut refusals) = (Counts::default(), BTreeMap::new());
        for client in &self.clients {
            for (code, more) in client.refusals() {
                *refusals.entry(code).or_insert(0) += more;
            }
            let more = client.counts();
            counts.connections += more.connections;
            counts.retries += more.retries;
            counts.unknown += more.unknown;
            counts.wrong_shard += more.wrong_shard;
            counts.not_leader += more.not_leader;
        }
        self.wrong.truncate(20);
        Run {
            wrong: self.wrong,
            outcomes,
            counts,
            refusals,
            crashes: self.crashes,
            failures: self.failures,
            refused: !alive,
            journal: self.journal,
            hits: self.hits,
            upgraded: self
                .upgrading
                .map(|upgrading| upgrading.counts)
                .unwrap_or_default(),
            history: self.history,
            report: self.sim.report(),
        }
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Unknown => "unknown",
        Outcome::Applied(_) => "applied",
        Outcome::ConditionFailed(..) => "condition failed",
        Outcome::Value(..) => "value",
        Outcome::Past(..) => "past",
        Outcome::Rows { .. } => "rows",
        Outcome::Refused(_) => "refused",
        Outcome::Done => "done",
    }
}

/// Whether an error speaks of bytes that are not what was written. The names of files do not count.
fn is_damage(error: &str) -> bool {
    let words = error.split_whitespace().filter(|word| !word.contains('/'));
    let text = words.collect::<Vec<_>>().join(" ").to_lowercase();
    ["corrupt", "damage", "checksum", "missing", "no tablet"]
        .iter()
        .any(|word| text.contains(word))
}

impl Run {
    /// The run in a few lines.
    #[must_use]
    pub fn print(&self) -> String {
        let faults: u64 = self.report.faults.values().sum();
        format!(
            "seed {}: hash {:016x}, {:.1} virtual s, {} events, {} crashes, {faults} faults, {:?}, {:?}, refusals {:?}, failures {:?}{}",
            self.report.seed,
            self.report.hash,
            Seconds(self.report.now_ns).as_f64(),
            self.report.events,
            self.crashes,
            self.outcomes,
            self.counts,
            self.refusals,
            self.failures,
            if self.refused { ", refused to go on" } else { "" },
        )
    }

    /// How often a fault fired.
    #[must_use]
    pub fn fault(&self, fault: Fault) -> u64 {
        self.report.faults.get(&fault).copied().unwrap_or(0)
    }
}
