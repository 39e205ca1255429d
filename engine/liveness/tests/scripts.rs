//! Golden scripts: a small cluster whose links, clocks, writes and crashes the script controls. One story each. What a host is
//! told is printed with the true time in milliseconds. After every step it is checked that nobody believes to be supported by
//! one who does not support it, if both clocks are within the bound.
//!
//! | command | what happens |
//! |---|---|
//! | `nodes N` | N nodes with a shard each, peers of each other, start |
//! | `host A` | another one, without peers, starts |
//! | `config NAME=MS…` | tunables, before the first host |
//! | `run MS` | time passes |
//! | `add A B`, `remove A B` | B becomes a peer of A, or is one no more |
//! | `latency MS` | what a message takes, of those sent from now on; 1 at first |
//! | `cut A B`, `heal` | messages of A to B are lost; no more are |
//! | `hold A B`, `release A B [reversed] [twice]` | messages of A to B stop on the way; they arrive, in another order, or twice |
//! | `crash A`, `start A` | it stops, and loses the write under way; it starts again |
//! | `disk A empty`, `disk A INCARNATION WAIT_MS` | while it is down, its disk is replaced; or the operator supplies what is lost |
//! | `clock A MS` | its clock is MS ahead of true time from now on |
//! | `write A MS` | what its writes take, 0 at first |
//! | `pause A MS` | it does nothing for that long |
//! | `forge A B NAME=VALUE…` | a message to B that A has not sent: `session`, `heard`, `clock`, `echo`, `ask`, `until`, `granted`, `refused` |
//! | `strict` | from now on that is checked of hosts with wrong clocks too |
//! | `count` | prints the messages on each link since the last `count` |
//! | `status` | prints what each host believes |

mod fixtures;

use corelane_liveness::{Answer, Config, Echo, Epoch, Event, Message, Peer, Promise, Session};
use fixtures::{BASE, Host, MS, Packet, World, peer};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;

test_each_file::test_each_path! { in "engine/liveness/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut Stage::default(), path).expect("the script runs");
}}

type Outcome = Result<(), Box<dyn Error>>;

struct Stage {
    world: World,
    held: BTreeMap<(Peer, Peer), Vec<Packet>>,
    holding: BTreeSet<(Peer, Peer)>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            world: World::new(Config::default()),
            held: BTreeMap::new(),
            holding: BTreeSet::new(),
        }
    }
}

/// `1` is shard 0 of node 1; `1/2` is shard 2 of it.
fn parse(text: &str) -> Result<Peer, Box<dyn Error>> {
    let (node, shard) = text.split_once('/').unwrap_or((text, "0"));
    Ok(peer(node.parse()?, shard.parse()?))
}

/// `2.3` is the third number of incarnation 2.
fn number(text: &str) -> Result<u64, Box<dyn Error>> {
    if text == "max" {
        return Ok(u64::MAX);
    }
    let (incarnation, number) = text.split_once('.').ok_or("as in 2.3")?;
    Ok(incarnation.parse::<u64>()? << 32 | number.parse::<u64>()?)
}

fn show(epoch: Option<Epoch>) -> String {
    epoch.map_or("-".to_owned(), |epoch| epoch.to_string())
}

fn ms(ns: i64) -> String {
    match ns {
        i64::MAX | i64::MIN => "?".to_owned(),
        ns => (ns / 1_000_000).to_string(),
    }
}

fn tell(event: Event) -> String {
    match event {
        Event::Support { peer, support } => {
            let (given, received) = (show(support.given), show(support.received));
            format!("{peer} given {given}, received {received}")
        }
        Event::PeerClock {
            peer,
            offset,
            outside,
        } => {
            let (low, high) = (ms(offset.low_ns), ms(offset.high_ns));
            let found = if outside { "outside" } else { "within" };
            format!("clock of {peer} is {found} the bound: {low} to {high} ms ahead")
        }
        Event::ClockOutOfBound { nodes: 0, .. } => "own clock out of bound: it went back".to_owned(),
        Event::ClockOutOfBound { nodes, of } => {
            format!("own clock out of bound: against {nodes} of {of} nodes")
        }
    }
}

impl Stage {
    fn pass(&mut self, ns: u64) {
        let (held, holding) = (&mut self.held, &self.holding);
        self.world.pass(ns, |world| {
            let stopped = |packet: &mut Packet| holding.contains(&(packet.from, packet.to));
            for packet in world.net.extract_if(.., stopped) {
                held.entry((packet.from, packet.to)).or_default().push(packet);
            }
        });
    }

    fn report(&mut self) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut lines: Vec<(u64, String)> = Vec::new();
        for (at, id, event) in self.world.events.drain(..) {
            lines.push((at, format!("{id}: {}", tell(event))));
        }
        for (at, id, error) in self.world.refused.drain(..) {
            lines.push((at, format!("{id} refuses: {error}")));
        }
        lines.sort_by_key(|(at, _)| *at);
        for (at, line) in lines {
            writeln!(out, "{:>5} {line}", at / MS)?;
        }
        Ok(out)
    }

    fn status(&mut self, out: &mut String) -> Outcome {
        for (&id, host) in &self.world.hosts {
            let Some(core) = &host.core else {
                writeln!(out, "{id} is down")?;
                continue;
            };
            let clock = self.world.clock(id);
            if core.may_start(clock) {
                writeln!(out, "{id} takes part")?;
            } else {
                let wait = core.start_ns().saturating_sub(clock) / MS;
                writeln!(out, "{id} waits for {wait} ms")?;
            }
            for other in core.peers() {
                let support = core.support(other);
                let (given, received) = (show(support.given), show(support.received));
                let lasts = self.world.believes(id, other) / MS;
                writeln!(
                    out,
                    "  {other} given {given}, received {received}, for {lasts} ms"
                )?;
            }
        }
        Ok(())
    }

    fn host(&mut self, id: Peer) -> Outcome {
        self.world.hosts.insert(id, Host::default());
        self.world.start(id);
        Ok(())
    }

    fn config(&mut self, words: &[&str]) -> Outcome {
        for word in words {
            let (name, value) = word.split_once('=').ok_or("as in beat=100")?;
            let number: u64 = value.parse()?;
            let config = &mut self.world.config;
            match name {
                "beat" => config.beat_ns = number * MS,
                "beat_max" => config.beat_ns_max = number * MS,
                "support" => config.support_ns = number * MS,
                "offset" => config.clock_offset_ns_max = number * MS,
                "peers" => config.peers_max = usize::try_from(number)?,
                other => return Err(format!("unknown tunable {other}").into()),
            }
        }
        Ok(())
    }

    fn release(&mut self, link: (Peer, Peer), how: &[&str]) -> Outcome {
        self.holding.remove(&link);
        let mut packets = self.held.remove(&link).ok_or("nothing is held")?;
        if how.contains(&"reversed") {
            packets.reverse();
        }
        for _ in 0..if how.contains(&"twice") { 2 } else { 1 } {
            for packet in &packets {
                self.world.deliver(packet);
            }
        }
        Ok(())
    }

    fn forge(&mut self, from: Peer, to: Peer, words: &[&str]) -> Outcome {
        let mut message = Message {
            session: Session(number("1.1")?),
            heard: Session(number("1.1")?),
            clock_ns: self.world.clock(to),
            echo: None,
            ask: None,
            answer: None,
        };
        let mut until_ns = self.world.clock(to) + 700 * MS;
        for word in words {
            let (name, value) = word.split_once('=').ok_or("as in session=1.2")?;
            let time = || match value {
                "max" => Ok::<_, Box<dyn Error>>(u64::MAX),
                value => Ok(BASE + value.parse::<u64>()? * MS),
            };
            let epoch = || number(value).map(Epoch);
            match name {
                "session" => message.session = Session(number(value)?),
                "heard" => message.heard = Session(number(value)?),
                "clock" => message.clock_ns = time()?,
                "echo" => {
                    message.echo = Some(Echo {
                        clock_ns: time()?,
                        came_ns: time()?,
                    });
                }
                "until" => until_ns = time()?,
                "ask" => {
                    message.ask = Some(Promise {
                        epoch: epoch()?,
                        until_ns,
                    });
                }
                "granted" => {
                    message.answer = Some(Answer::Granted(Promise {
                        epoch: epoch()?,
                        until_ns,
                    }));
                }
                "refused" => message.answer = Some(Answer::Refused { epoch: epoch()? }),
                other => return Err(format!("unknown field {other}").into()),
            }
        }
        self.world.forged = true;
        let at = self.world.now;
        self.world.deliver(&Packet {
            at,
            from,
            to,
            message,
        });
        Ok(())
    }

    fn command(&mut self, name: &str, words: &[&str], out: &mut String) -> Outcome {
        let word = |at: usize| words.get(at).copied().ok_or("an argument is missing");
        let time = |at: usize| -> Result<u64, Box<dyn Error>> { Ok(word(at)?.parse::<u64>()? * MS) };
        let id = |at: usize| parse(word(at)?);
        match name {
            "nodes" => {
                let ids: Vec<_> = (1..=word(0)?.parse()?).map(|node| peer(node, 0)).collect();
                for &id in &ids {
                    let host = Host {
                        peers: ids.iter().copied().filter(|other| *other != id).collect(),
                        ..Host::default()
                    };
                    self.world.hosts.insert(id, host);
                }
                for id in ids {
                    self.world.start(id);
                }
            }
            "host" => self.host(id(0)?)?,
            "config" => self.config(words)?,
            "run" => self.pass(time(0)?),
            "add" => self.world.add(id(0)?, id(1)?),
            "remove" => self.world.remove(id(0)?, id(1)?),
            "latency" => self.world.latency_ns = Some(time(0)?),
            "cut" => {
                self.world.cut.insert((id(0)?, id(1)?));
            }
            "heal" => self.world.cut.clear(),
            "hold" => {
                self.holding.insert((id(0)?, id(1)?));
            }
            "release" => self.release((id(0)?, id(1)?), &words[2..])?,
            "crash" => self.world.crash(id(0)?),
            "start" => self.world.start(id(0)?),
            "disk" => {
                let disk = match word(1)? {
                    "empty" => None,
                    incarnation => Some(corelane_liveness::Durable {
                        incarnation: incarnation.parse()?,
                        wait_ns: time(2)?,
                    }),
                };
                let host = self.world.host(id(0)?);
                host.lied = disk.is_none();
                host.disk = disk;
            }
            "clock" => self.world.set_clock(id(0)?, word(1)?.parse::<i64>()? * 1_000_000),
            "write" => self.world.host(id(0)?).write_ns = time(1)?,
            "pause" => {
                let until = self.world.now + time(1)?;
                self.world.host(id(0)?).paused_until = until;
            }
            "forge" => self.forge(id(0)?, id(1)?, &words[2..])?,
            "strict" => self.world.strict = true,
            "count" => {
                for ((from, to), count) in core::mem::take(&mut self.world.sent) {
                    writeln!(out, "{from} to {to}: {count}")?;
                }
            }
            "status" => self.status(out)?,
            other => return Err(format!("unknown command {other}").into()),
        }
        self.world.check();
        Ok(())
    }
}

impl goldenscript::Runner for Stage {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let word = |arg: &goldenscript::Argument| match arg {
            goldenscript::Argument::Positional(value) => value.clone(),
            // As it is written.
            pair => pair.to_string(),
        };
        let words: Vec<String> = command.args.iter().map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut out = String::new();
        self.command(&command.name, &words, &mut out)?;
        Ok(self.report()? + &out)
    }
}
