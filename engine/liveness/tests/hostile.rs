//! Arbitrary messages at arbitrary times: refused, or without harm beyond the pair that they are for; never a panic, never more
//! to say than one message a quarter of a beat and peer.

mod fixtures;

use base::Prng;
use corelane_liveness::{
    Answer, Config, Durable, Echo, Epoch, Liveness, Message, Peer, Promise, Ready, Session,
};
use fixtures::{BASE, MS, peer};
use proptest::prelude::*;

/// Numbers at which arithmetic goes wrong, and those that are in use.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(i64::MAX as u64),
        Just(1 << 63),
        any::<u64>(),
        (0_u64..4, 0_u64..16).prop_map(|(high, low)| high << 32 | low),
        (0_u64..4_000).prop_map(|ms| BASE + ms * MS),
    ]
}

fn promise() -> impl Strategy<Value = Promise> {
    (number(), number()).prop_map(|(epoch, until_ns)| Promise {
        epoch: Epoch(epoch),
        until_ns,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let answer = prop_oneof![
        promise().prop_map(Answer::Granted),
        number().prop_map(|epoch| Answer::Refused { epoch: Epoch(epoch) }),
    ];
    let echo = (number(), number()).prop_map(|(clock_ns, came_ns)| Echo { clock_ns, came_ns });
    let parts = (
        number(),
        number(),
        number(),
        prop::option::of(echo),
        prop::option::of(promise()),
        prop::option::of(answer),
    );
    parts.prop_map(|(session, heard, clock_ns, echo, ask, answer)| Message {
        session: Session(session),
        heard: Session(heard),
        clock_ns,
        echo,
        ask,
        answer,
    })
}

#[derive(Debug, Clone)]
enum Input {
    Step(u64, Message),
    /// With what the sender would know of the receiver.
    Fitting(u64, Message),
    Add(u64),
    Remove(u64),
    Pass(u64),
    Clock(u64),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        6 => (0_u64..5, message()).prop_map(|(from, message)| Input::Step(from, message)),
        6 => (0_u64..5, message()).prop_map(|(from, message)| Input::Fitting(from, message)),
        1 => (0_u64..5).prop_map(Input::Add),
        1 => (0_u64..5).prop_map(Input::Remove),
        4 => (0_u64..2_000 * MS).prop_map(Input::Pass),
        1 => number().prop_map(Input::Clock),
    ]
}

/// What the detector was told, and has said since.
struct Bench {
    core: Liveness,
    ready: Ready,
    now: u64,
    last: [Option<Message>; 5],
    said: [u64; 5],
    given: [Epoch; 5],
}

impl Bench {
    fn drain(&mut self) {
        self.core.ready(self.now, &mut self.ready);
        self.core.assert_invariants();
        if let Some(durable) = self.ready.durable {
            self.core.persisted(durable);
        }
        for (to, message) in &self.ready.messages {
            let to = usize::try_from(to.node.0).expect("one of five");
            self.said[to] += 1;
            self.last[to] = Some(*message);
        }
        for node in 0..5_u64 {
            let at = usize::try_from(node).expect("one of five");
            if let Some(epoch) = self.core.support(peer(node, 0)).given {
                assert!(epoch >= self.given[at], "an epoch comes back");
                self.given[at] = epoch;
            }
        }
        let _ = self.core.wake_at();
    }
}

fn exercise(restored: Option<Durable>, inputs: &[Input]) {
    let config = Config {
        peers_max: 3,
        ..Config::default()
    };
    let mut bench = Bench {
        core: Liveness::new(peer(2, 0), config, restored, BASE),
        ready: Ready::default(),
        now: BASE,
        last: [None; 5],
        said: [0; 5],
        given: [Epoch(0); 5],
    };
    let of = |node: u64| -> Peer { peer(node, 0) };
    for node in 0..5 {
        let _ = bench.core.add_peer(of(node), BASE);
    }
    bench.drain();
    let (mut latest, mut adds) = (BASE, 5);
    for input in inputs {
        match input {
            Input::Step(from, message) => {
                let _ = bench.core.step(of(*from), message, bench.now);
            }
            Input::Fitting(from, message) => {
                let mut message = *message;
                let at = usize::try_from(*from).expect("one of five");
                if let Some(last) = bench.last[at] {
                    message.heard = last.session;
                    message.echo = Some(Echo {
                        clock_ns: last.clock_ns,
                        came_ns: message.clock_ns,
                    });
                    if let (Some(ask), Some(Answer::Granted(promise))) = (last.ask, &mut message.answer) {
                        promise.epoch = ask.epoch;
                    }
                }
                let _ = bench.core.step(of(*from), &message, bench.now);
            }
            Input::Add(node) => {
                adds += u64::from(bench.core.add_peer(of(*node), bench.now).is_ok());
            }
            Input::Remove(node) => bench.core.remove_peer(of(*node), bench.now),
            Input::Pass(ns) => bench.now = bench.now.saturating_add(*ns),
            Input::Clock(clock) => bench.now = *clock,
        }
        latest = latest.max(bench.now);
        bench.drain();
        assert!(bench.core.peers().count() <= 3, "more peers than allowed");
        // A peer that is added anew is spoken to at once.
        let most = (latest - BASE) / (config.beat_ns / 4) + 1 + adds;
        let said = bench.said.iter().max().copied();
        assert!(said <= Some(most), "{said:?} messages instead of {most}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn arbitrary_messages_do_no_harm(
        incarnation in prop_oneof![Just(None), Just(Some(0)), Just(Some(u32::MAX - 1)), any::<u32>().prop_map(Some)],
        wait_ns in number(),
        inputs in prop::collection::vec(input(), 1..60),
    ) {
        let restored = incarnation.map(|incarnation: u32| Durable {
            incarnation: incarnation.min(u32::MAX - 1),
            wait_ns,
        });
        exercise(restored, &inputs);
    }
}

/// Fast and without shrinking; `HOSTILE=N` runs N of them.
#[test]
fn a_flood_of_messages_does_no_harm() {
    let count = std::env::var("HOSTILE").map_or(200, |count| count.parse().expect("a number"));
    let (mut fresh, mut given, mut received) = (0, 0, 0);
    for seed in 0..count {
        let mut prng = Prng::new(seed);
        let mut core = Liveness::new(peer(2, 0), Config::default(), None, BASE);
        let mut ready = Ready::default();
        // The others say nothing; they are there so that this one is no majority.
        for node in [1, 3, 4] {
            core.add_peer(peer(node, 0), BASE).expect("there is room");
        }
        core.ready(BASE, &mut ready);
        core.persisted(ready.durable.expect("the start is written"));
        let mut now = BASE;
        let mut last = None;
        for _ in 0..1_000 {
            now += prng.below(MS);
            core.ready(now, &mut ready);
            core.assert_invariants();
            assert!(ready.messages.len() <= 3 && ready.events.len() <= 3);
            let support = core.support(peer(1, 0));
            given += u64::from(support.given.is_some());
            received += u64::from(support.received.is_some());
            let to_it = |said: &&(Peer, Message)| said.0 == peer(1, 0);
            last = ready.messages.iter().find(to_it).map(|said| said.1).or(last);
            let mut draw = |around: u64| match prng.below(4) {
                0 => prng.next_u64(),
                1 => around,
                2 => around.wrapping_add(prng.below(4)),
                _ => around.wrapping_sub(prng.below(4)),
            };
            let Some(last) = last else { continue };
            let mut promise = |epoch: u64| Promise {
                epoch: Epoch(draw(epoch)),
                until_ns: draw(now + 600 * MS),
            };
            let ask = promise(last.heard.0);
            let granted = promise(last.ask.map_or(0, |ask| ask.epoch.0));
            let mut message = Message {
                session: Session(last.heard.0.max(1)),
                heard: last.session,
                clock_ns: now,
                echo: Some(Echo {
                    clock_ns: last.clock_ns,
                    came_ns: now,
                }),
                ask: Some(ask),
                answer: Some(Answer::Granted(granted)),
            };
            // Mostly what is accepted, or all would be about sessions and clocks.
            match prng.below(1_000) {
                0 => message.session = Session(prng.next_u64()),
                1 => message.clock_ns = prng.next_u64(),
                2..20 => message.session.0 = message.session.0.saturating_add(1),
                20..40 => message.heard = Session(prng.next_u64()),
                40..60 => message.clock_ns = now.saturating_add(prng.below(600 * MS)),
                60..160 => {
                    message.echo = Some(Echo {
                        clock_ns: prng.next_u64(),
                        came_ns: prng.next_u64(),
                    });
                }
                160..200 => message.answer = Some(Answer::Refused { epoch: granted.epoch }),
                200..400 => message.ask = None,
                400..600 => message.answer = None,
                600..650 => message.echo = None,
                _ => {}
            }
            fresh += u64::from(core.step(peer(1, 0), &message, now).is_ok());
        }
    }
    let seen = [fresh, given, received];
    assert!(
        seen.iter().all(|count| *count > 1_000),
        "{fresh} taken, {given} in support, {received} supported"
    );
}
