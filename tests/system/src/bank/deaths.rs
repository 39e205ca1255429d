//! A teller dies at every step of a transfer: how long others wait, and whether all see the same outcome.
//!
//! Three nodes with the settings that nodes have by default, in calm weather: what is measured is what the protocol makes others wait,
//! in virtual time. The dead one's messages that are on their way still arrive.
//!
//! A step is a part of a batch that goes out. Parts that go out at the same time are taken in both orders, so that each may be
//! the one that nobody hears of.

use super::link::{Link, Queue};
use super::{account, number, text};
use crate::process::Process;
use crate::scenario::PORT;
use base::{ClientId, NodeId, Prng, ShardId};
use core::cell::{Cell, RefCell};
use core::fmt;
use core::time::Duration;
use node::{Cluster, Member, NodeConfig, Version};
use sim::{Sim, SimConfig, SimEnv, SimNodeId};
use std::rc::Rc;
use std::sync::Arc;
use txn::coordinator::Answer;
use txn::driver::{Driver, Out};
use txn::{Bytes, Isolation, Priority, Request, TxnId};

/// What each account has at first.
const BALANCE: i64 = 1_000_000;
/// More parts than a transfer has.
const STEPS_MAX: usize = 20;
/// Pauses before a transaction runs again, as the client library makes them.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// The virtual time that all of it may take.
const END: Duration = Duration::from_secs(3600);

/// What the other one does, right after the death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Other {
    /// Reads both accounts.
    Reads,
    /// Moves money between the same accounts.
    Transfers,
}

/// A death and what followed.
#[derive(Debug, Clone)]
pub struct Death {
    /// Of the one who died.
    pub isolation: Isolation,
    /// How many parts it had sent.
    pub sent: usize,
    /// Whether those of one moment went in the other order.
    pub reversed: bool,
    /// What the last of them asked.
    pub last: String,
    /// What the other one does.
    pub other: Other,
    /// How long that took, from its begin to its commit, all runs of it together.
    pub waited: Duration,
    /// Whether the transfer of the dead one is there, as everybody found it.
    pub happened: bool,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<18} {:>2}{} {:<28} {:<9} {:>7.1} ms  {}",
            format!("{:?}", self.isolation),
            self.sent,
            if self.reversed { "r" } else { " " },
            self.last,
            format!("{:?}", self.other),
            self.waited.as_secs_f64() * 1000.0,
            if self.happened { "committed" } else { "not" }
        )
    }
}

/// How far the one who dies gets.
struct Life {
    left: usize,
    reversed: bool,
    last: String,
}

struct Measure {
    env: SimEnv,
    addresses: Vec<env::Address>,
    prng: RefCell<Prng>,
    next: Cell<u64>,
    deaths: RefCell<Vec<Death>>,
    is_over: Cell<bool>,
}

/// Has a teller die at each step, and measures. All is drawn from the seed.
///
/// # Panics
/// It does not come to an end, or what is read shows half of a transfer, or different things to different readers.
#[must_use]
pub fn measure(seed: u64) -> Vec<Death> {
    let mut sim = Sim::new(seed, SimConfig::calm());
    let id = |at: u32| NodeId(u64::from(at) + 1);
    let members = (0..3).map(|at| Member::new(id(at), Sim::address_of(SimNodeId(at), PORT)));
    let members: Vec<_> = members.collect();
    let mut processes: Vec<_> = (0..3)
        .map(|at| {
            let cluster = Cluster {
                begins: Version::NEWEST,
                ..Cluster::new(u128::from(seed) + 1, id(at), members.clone())
            };
            let config = NodeConfig {
                cluster: Some(Arc::new(cluster)),
                ..NodeConfig::default()
            };
            Process::new(&mut sim, config, 1)
        })
        .collect();
    let machine = sim.add_node(1);
    let addresses = processes.iter().map(|process| sim.address(process.node(), PORT));
    let measure = Rc::new(Measure {
        env: sim.env(machine, ShardId(0)),
        addresses: addresses.collect(),
        prng: RefCell::new(Prng::new(seed)),
        next: Cell::new(1),
        deaths: RefCell::default(),
        is_over: Cell::new(false),
    });
    for process in &mut processes {
        process.run(&sim);
    }
    sim.spawn(Some(machine), measure.clone().all());
    let end = sim.now() + END;
    while !measure.is_over.get() {
        assert!(sim.now() < end, "it does not end");
        sim.run_for(Duration::from_millis(100));
        for process in &processes {
            assert_eq!(process.exit(), None, "a node ends");
        }
    }
    measure.deaths.take()
}

fn both() -> Vec<Bytes> {
    vec![account(0), account(6)]
}

impl Measure {
    async fn all(self: Rc<Self>) {
        let link = self.link();
        self.open(&link).await;
        let isolations = [
            Isolation::Snapshot,
            Isolation::Serializable,
            Isolation::StrictSerializable,
        ];
        for isolation in isolations {
            for other in [Other::Reads, Other::Transfers] {
                for reversed in [false, true] {
                    for sent in 0..STEPS_MAX {
                        if !self.one(&link, (isolation, other), (sent, reversed)).await {
                            break;
                        }
                    }
                }
            }
        }
        self.is_over.set(true);
    }

    /// A client of its own.
    fn link(&self) -> Rc<Link> {
        let bound_ns = liveness::Config::default().clock_offset_ns_max;
        let prng = self.prng.borrow_mut().fork();
        Link::new(self.env.clone(), self.addresses.clone(), bound_ns, prng)
    }

    async fn begin(&self, link: &Link, isolation: Isolation) -> Driver {
        let number = self.next.get();
        self.next.set(number + 1);
        let id = TxnId {
            client: ClientId(u128::from(number) << 64 | 1),
            seq: 1,
        };
        let seed = self.prng.borrow_mut().next_u64();
        link.begin(id, (isolation, Priority::Normal), seed).await
    }

    async fn open(&self, link: &Rc<Link>) {
        link.split(&account(0)).await;
        link.split(&account(6)).await;
        loop {
            let (mut driver, queue) = (self.begin(link, Isolation::Snapshot).await, Queue::new());
            for key in both() {
                driver.write(key, text(BALANCE));
            }
            driver.commit();
            if let Answer::Committed { .. } = answer(link, &mut driver, &queue).await {
                return link.finish(driver, queue);
            }
        }
    }

    /// One death, after so many parts. `false` when the transfer has no more than that, and nobody died.
    async fn one(
        &self,
        link: &Rc<Link>,
        (isolation, other): (Isolation, Other),
        (sent, reversed): (usize, bool),
    ) -> bool {
        let before = self.balances(link).await;
        let victim = self.link();
        // It knows where ranges are and who leads them.
        self.balances(&victim).await;
        let mut life = Life {
            left: sent,
            reversed,
            last: String::new(),
        };
        if self.transfer_and_die(&victim, isolation, &mut life).await {
            return false;
        }
        let began = link.now();
        let amount = self.follow(link, other).await;
        let waited = Duration::from_nanos(link.now().0 - began.0);
        let mut seen = Vec::new();
        for reader in [link, &self.link(), &self.link()] {
            seen.push(self.balances(reader).await);
        }
        let [from, to] = seen[0];
        assert!(
            seen.iter().all(|found| *found == seen[0]),
            "all see the same: {seen:?}"
        );
        assert_eq!(from + to, 2 * BALANCE, "half of a transfer is there");
        let moved = before[0] - from - amount;
        assert!([0, 7].contains(&moved), "{moved} were moved");
        self.deaths.borrow_mut().push(Death {
            isolation,
            sent,
            reversed,
            last: life.last,
            other,
            waited,
            happened: moved == 7,
        });
        true
    }

    /// Moves 7, and dies as soon as so many parts are sent. Whether it lived to its end.
    async fn transfer_and_die(&self, link: &Rc<Link>, isolation: Isolation, life: &mut Life) -> bool {
        let (mut driver, queue) = (self.begin(link, isolation).await, Queue::new());
        driver.read(both());
        let Some(answer) = live(link, &mut driver, &queue, life).await else {
            return false;
        };
        let Answer::Values(values) = answer else {
            panic!("a read was answered by {answer:?}")
        };
        let [from, to] = numbers(&values);
        // One is laid early, as those are of transactions that write much.
        driver.write(account(0), text(from - 7));
        driver.flush();
        driver.write(account(6), text(to + 7));
        driver.commit();
        let Some(answer) = live(link, &mut driver, &queue, life).await else {
            return false;
        };
        assert!(matches!(answer, Answer::Committed { .. }), "{answer:?}");
        // What is left to be done after the answer is a step, too.
        while !driver.is_over() {
            if !live_a_moment(link, &mut driver, &queue, life) {
                return false;
            }
            if !driver.is_over() {
                queue.wait(link, driver.wake_at_ns()).await;
            }
        }
        true
    }

    /// What another one does with the same accounts, until it is done. How much it moved.
    async fn follow(&self, link: &Rc<Link>, other: Other) -> i64 {
        let mut pause = PAUSE.0;
        loop {
            let (mut driver, queue) = (self.begin(link, Isolation::Serializable).await, Queue::new());
            driver.read(both());
            if let Answer::Values(values) = answer(link, &mut driver, &queue).await {
                let [from, to] = numbers(&values);
                if other == Other::Transfers {
                    driver.write(account(0), text(from - 1));
                    driver.write(account(6), text(to + 1));
                }
                driver.commit();
                match answer(link, &mut driver, &queue).await {
                    Answer::Committed { ts, .. } => {
                        link.note_commit(ts);
                        link.finish(driver, queue);
                        return i64::from(other == Other::Transfers);
                    }
                    Answer::Failed(_) => {}
                    other => panic!("a commit was answered by {other:?}"),
                }
            }
            let drawn = pause.mul_f64(0.5 + self.prng.borrow_mut().unit() / 2.0);
            link.sleep(drawn).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn balances(&self, link: &Rc<Link>) -> [i64; 2] {
        loop {
            let (mut driver, queue) = (self.begin(link, Isolation::Serializable).await, Queue::new());
            driver.read(both());
            if let Answer::Values(values) = answer(link, &mut driver, &queue).await {
                driver.commit();
                if let Answer::Committed { .. } = answer(link, &mut driver, &queue).await {
                    return numbers(&values);
                }
            }
            link.sleep(PAUSE.1).await;
        }
    }
}

fn numbers(values: &[Option<Bytes>]) -> [i64; 2] {
    let value = |at: usize| number(values[at].as_ref()).expect("a balance");
    [value(0), value(1)]
}

/// Drives a transaction until it answers.
async fn answer(link: &Rc<Link>, driver: &mut Driver, queue: &Rc<Queue>) -> Answer {
    loop {
        if let Some(answer) = link.step(driver, queue) {
            return answer;
        }
        queue.wait(link, driver.wake_at_ns()).await;
    }
}

/// The same for the one who dies: nothing when it has.
async fn live(link: &Rc<Link>, driver: &mut Driver, queue: &Rc<Queue>, life: &mut Life) -> Option<Answer> {
    loop {
        let (mut sends, mut answered) = (Vec::new(), None);
        for out in link.poll(driver, queue) {
            match out {
                Out::Answer(answer) => answered = Some(answer),
                other => sends.push(other),
            }
        }
        if !send(link, sends, queue, life) {
            return None;
        }
        if answered.is_some() {
            return answered;
        }
        queue.wait(link, driver.wake_at_ns()).await;
    }
}

/// What is to be sent now. `false` when it has died.
fn live_a_moment(link: &Rc<Link>, driver: &mut Driver, queue: &Rc<Queue>, life: &mut Life) -> bool {
    let outs = link.poll(driver, queue);
    send(link, outs, queue, life)
}

fn send(link: &Rc<Link>, mut outs: Vec<Out>, queue: &Rc<Queue>, life: &mut Life) -> bool {
    if life.reversed {
        outs.reverse();
    }
    for out in outs {
        if let Out::Send { part, .. } = &out {
            if life.left == 0 {
                return false;
            }
            life.left -= 1;
            let names = part.requests.iter().map(|(_, request)| name(request));
            life.last = names.collect::<Vec<_>>().join(", ");
        }
        link.carry_out(out, queue);
    }
    true
}

fn name(request: &Request) -> String {
    let text = format!("{request:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    text[..end].to_lowercase()
}
