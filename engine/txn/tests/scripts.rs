//! Golden scripts: transactions step by step, and what ranges and clients say. One story each.
//!
//! Keys below `m` are in the first range, the others in the second one, unless `ranges` says otherwise. Messages arrive at once; after
//! `hold` they are kept, and `net` lists them.
//!
//! | command | what happens |
//! |---|---|
//! | `ranges CUT…` | begins with ranges cut there |
//! | `now TS`, `expiry NS`, `bound NS` | the clock of all; when a silent coordinator is taken for dead; the clock bound |
//! | `set K=V… [at=1]` | committed values |
//! | `T: begin [ISOLATION] [PRIORITY] [name=]` | a transaction that reads at the clock; ISOLATION is `snapshot`, `serializable`, `strict` |
//! | `T: put K=V…`, `del K`, `delrange FROM TO`, `get K…`, `lock K…`, `share K…`, `scan FROM TO`, `flush`, `commit`, `rollback`, `savepoint`, `return`, `restart`, `beat` | its client's calls |
//! | `T: add K=N… [floor=N]`, `T: append K=V… [most=N]` | a change of a key's value, with a bound |
//! | `T: shot [put.K=V] [add.K=N] [append.K=V] [del.K] [floor=N] [is.K=V] [from.K=N] [within.K=N..N] [absent.K] [present.K]… [first.K]…` | a one-shot transaction: changes, and conditions, which count from 0 as they stand; what is changed first, in turn |
//! | `T: observe RANGE` | it comes to the node of that range, and notes its clock |
//! | `T: stop`, `lost` | its coordinator stops for ever; no answer to what it asked will come |
//! | `hold`, `net`, `run` | messages are kept from now on; are listed; all arrive, and so do others from now on |
//! | `deliver N`, `repeat N`, `drop N`, `lose N`, `misroute N` | one of them; while a copy stays; never; its entry is lost with the lease after it was answered; to a range that does not have its keys |
//! | `others N` | all but that one arrive, and what comes of them |
//! | `push K above=TS`, `push K`, `push K force` `[by=T] [as=N]` | pushes whoever has an intent there: to commit later, to abort, by all means |
//! | `again N` | a push that waits tries again |
//! | `outcome T` | a client asks for the outcome by the transaction's id |
//! | `read K at=TS [limit=TS] [observed=TS]` | a plain read |
//! | `close K TS`, `transfer K`, `takeover K`, `split K`, `merge K` | what happens to the range of a key: no writes below; its lease moves with the summary; without a word; it is cut; it becomes one with that before |
//! | `forget T` | the client's session is over everywhere |
//! | `state` | prints intents, records, versions above 1, outcomes |

mod fixtures;
mod world;

use base::NodeId;
use corelane_txn::change::{Change, Condition, Must, OneShot};
use corelane_txn::coordinator::{Answer, Savepoint};
use corelane_txn::error::Seen;
use corelane_txn::evaluate::Reader;
use corelane_txn::locks::Strength;
use corelane_txn::request::{End, Ended, Push, Pushed, Reply, Request, Verdict};
use corelane_txn::{Bytes, Epoch, Isolation, Keys, Outcome, Priority, Refusal};
use fixtures::{bytes, ts};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use world::{Actor, Event, Packet, World, id};

test_each_file::test_each_path! { in "engine/txn/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut Stage::default(), path).expect("the script runs");
}}

type Done = Result<(), Box<dyn Error>>;

struct Stage {
    world: World,
    holds: bool,
    pushes: usize,
    savepoints: BTreeMap<usize, Savepoint>,
    out: String,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            world: World::new(&["m"]),
            holds: false,
            pushes: 0,
            savepoints: BTreeMap::new(),
            out: String::new(),
        }
    }
}

fn at(ts: base::Timestamp) -> String {
    match ts.logical {
        0 => ts.wall_ns.to_string(),
        logical => format!("{}+{logical}", ts.wall_ns),
    }
}

fn show(value: Option<&[u8]>) -> String {
    value.map_or("-".to_owned(), |value| value.escape_ascii().to_string())
}

fn actor(actor: Actor) -> String {
    match actor {
        Actor::Txn(of) => format!("t{of}"),
        Actor::Own(of) => format!("t{of}'s recovery"),
        Actor::Push(of) => format!("push {of}"),
        Actor::Recovery(of) => format!("push {of}'s recovery"),
    }
}

fn name(of: corelane_txn::TxnId) -> String {
    format!("t{}", of.client.0 >> 96)
}

fn request(request: &Request) -> String {
    match request {
        Request::Get { key } => format!("get {}", key.escape_ascii()),
        Request::GetLocked { key, strength, .. } => {
            format!(
                "lock {} {}",
                key.escape_ascii(),
                format!("{strength:?}").to_lowercase()
            )
        }
        Request::Scan { keys, .. } => format!("scan {keys:?}"),
        Request::Write { key, seq, value, .. } => {
            format!("{}#{}={}", key.escape_ascii(), seq.0, show(value.as_deref()))
        }
        Request::Change {
            key,
            seq,
            change,
            given,
            ..
        } => {
            let given = given.iter().map(condition);
            let given: Vec<String> = given.collect();
            let given = match &given[..] {
                [] => String::new(),
                given => format!(" if {}", given.join(" and ")),
            };
            format!("{}#{}{}{given}", key.escape_ascii(), seq.0, changes(change))
        }
        Request::Check { condition: of } => format!("check {}", condition(of)),
        Request::DeleteRange { keys, seq } => format!("delete {keys:?}#{}", seq.0),
        Request::Refresh { keys, from } => format!("refresh {keys:?} from {}", at(*from)),
        Request::Query { key, seq, ts, .. } => {
            format!("query {}#{} by {}", key.escape_ascii(), seq.0, at(*ts))
        }
        Request::End {
            end: End::Rollback, ..
        } => "roll back".to_owned(),
        Request::End {
            end: End::Commit { promises, .. } | End::Whole { promises, .. },
            ..
        } => {
            let promise = |promise: &corelane_txn::record::Promise| {
                format!("{}#{}", promise.key.escape_ascii(), promise.seq.0)
            };
            let promises: Vec<String> = promises.iter().map(promise).collect();
            format!("commit [{}]", promises.join(" "))
        }
        Request::Finish { .. } => "commit []".to_owned(),
        Request::Beat => "beat".to_owned(),
        Request::Push { pushee, push, .. } => match push {
            Push::Above(ts) => format!("push {} above {}", name(pushee.who.id), at(*ts)),
            Push::Abort => format!("push {} to abort", name(pushee.who.id)),
            Push::Force => format!("push {} by force", name(pushee.who.id)),
        },
        Request::QueryTxn { who } => format!("look at {}", name(who.id)),
        Request::Recover { who, ts, kept, .. } => {
            let kept = if *kept { "kept" } else { "not kept" };
            format!("{} at {} is {kept}", name(who.id), at(*ts))
        }
        Request::Resolve {
            keys,
            txn,
            verdict: of,
        } => {
            format!("resolve {keys:?} of {} as {}", name(*txn), verdict(of))
        }
        Request::Forget { who } => format!("forget {}", name(who.id)),
    }
}

fn changes(change: &Change) -> String {
    match change {
        Change::Set(value) => format!("={}", show(value.as_deref())),
        Change::Add { delta, .. } => format!("+={delta}"),
        Change::Min(value) => format!("=min {value}"),
        Change::Max(value) => format!("=max {value}"),
        Change::Append { bytes, .. } => format!("+={}", bytes.escape_ascii()),
    }
}

fn condition(Condition { key, must, .. }: &Condition) -> String {
    let key = key.escape_ascii();
    match must {
        Must::Absent => format!("{key} absent"),
        Must::Present => format!("{key} present"),
        Must::Equal(value) => format!("{key}={}", value.escape_ascii()),
        Must::Version(ts) => format!("{key} from {}", at(*ts)),
        Must::Within { min, max } => format!("{key} in {min}..{max}"),
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Committed { ts, .. } => format!("committed at {}", at(*ts)),
        Verdict::Settled { ts } => format!("settled, committed at {}", at(*ts)),
        Verdict::Aborted => "aborted".to_owned(),
        Verdict::Moved { ts, .. } => format!("moved to {}", at(*ts)),
    }
}

fn outcome(outcome: Option<Outcome>) -> String {
    match outcome {
        None => "goes on".to_owned(),
        Some(Outcome::Aborted) => "aborted".to_owned(),
        Some(Outcome::Committed { ts }) => format!("committed at {}", at(ts)),
    }
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Value(value) | Reply::Locked { value, .. } => show(value.as_deref()),
        Reply::Rows { rows, .. } => rows_text(rows),
        Reply::Laid { ts } => format!("laid at {}", at(*ts)),
        Reply::Changed { value: None, ts, .. } => format!("laid at {}", at(*ts)),
        Reply::Changed { value, ts, .. } => format!("now {}, laid at {}", show(value.as_deref()), at(*ts)),
        Reply::Deleted { keys, ts, .. } => format!("deleted {} at {}", keys_text(keys), at(*ts)),
        Reply::Partly { next } => format!("done before {}", next.escape_ascii()),
        Reply::Refreshed => "refreshed".to_owned(),
        Reply::Queried(found) => found.map_or("not there".to_owned(), |ts| format!("there at {}", at(ts))),
        Reply::Ended(Ended::Committed { ts, rest }) if rest.is_empty() => {
            format!("committed at {}, nothing left", at(*ts))
        }
        Reply::Ended(Ended::Committed { ts, .. }) => format!("committed at {}", at(*ts)),
        Reply::Ended(Ended::Staged { ts }) => format!("staged at {}", at(*ts)),
        Reply::Ended(Ended::Aborted { .. }) => "aborted".to_owned(),
        Reply::Ended(Ended::Unmet { unmet: of }) => format!("aborted: {}", unmet(of)),
        Reply::Beaten { outcome: of, .. } => outcome(*of),
        Reply::Pushed(Pushed::Ended { verdict: of, .. } | Pushed::Moved(of)) => verdict(of),
        Reply::Record(None) => "no record".to_owned(),
        Reply::Record(Some(record)) => format!("{:?}", record.status).to_lowercase(),
        Reply::Recovered(of) => outcome(*of),
        Reply::Done => "done".to_owned(),
    }
}

fn unmet(unmet: &corelane_txn::change::Unmet) -> String {
    format!("{unmet}, it is {}", show(unmet.found.as_deref()))
}

fn keys_text(keys: &[Bytes]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.escape_ascii().to_string()).collect();
    format!("[{}]", keys.join(" "))
}

fn rows_text(rows: &[(Bytes, Bytes)]) -> String {
    let row = |(key, value): &(Bytes, Bytes)| format!("{}={}", key.escape_ascii(), value.escape_ascii());
    format!("[{}]", rows.iter().map(row).collect::<Vec<_>>().join(" "))
}

fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Refresh { to } => format!("refused: reads are to be valid at {}", at(*to)),
        Refusal::WriteTooOld { ts, .. } => format!("refused: written after the snapshot, go to {}", at(*ts)),
        Refusal::Unmet { unmet: of } => format!("refused: {}", unmet(of)),
        Refusal::Uncertain { ts, .. } => format!("refused: {} may be from before", at(*ts)),
        other => format!("refused: {other}"),
    }
}

impl Stage {
    fn print_events(&mut self) -> Done {
        let out = &mut self.out;
        for event in core::mem::take(&mut self.world.events) {
            match event {
                Event::Evaluated(from, range, batch, answer) => {
                    let requests: Vec<_> = batch.requests.iter().map(|(_, of)| request(of)).collect();
                    let answers = match &answer {
                        Ok(replies) => replies
                            .iter()
                            .map(|(_, of)| reply(of))
                            .collect::<Vec<_>>()
                            .join(", "),
                        Err((_, of)) => refusal(of),
                    };
                    writeln!(
                        out,
                        "  {} at r{range}: {} -> {answers}",
                        actor(from),
                        requests.join(", ")
                    )?;
                }
                Event::Blocked(from, seen, keys) => {
                    writeln!(
                        out,
                        "  {} waits for {} on {keys:?}",
                        actor(from),
                        name(seen.who.id)
                    )?;
                }
                Event::Answer(of, answer) => match answer {
                    Answer::Values(values) => {
                        let values: Vec<_> = values.iter().map(|value| show(value.as_deref())).collect();
                        writeln!(out, "t{of} reads {}", values.join(" "))?;
                    }
                    Answer::Changed(value) => writeln!(out, "t{of} made it {}", show(value.as_deref()))?,
                    Answer::Unmet(what) => writeln!(out, "t{of} changed nothing: {}", unmet(&what))?,
                    Answer::Deleted(keys) => writeln!(out, "t{of} deleted {}", keys_text(&keys))?,
                    Answer::Rows { rows, .. } => writeln!(out, "t{of} reads {}", rows_text(&rows))?,
                    Answer::Committed { ts, not_before } => {
                        let wait = if not_before > ts {
                            format!(", to be said after {}", at(not_before))
                        } else {
                            String::new()
                        };
                        writeln!(out, "t{of} is committed at {}{wait}", at(ts))?;
                    }
                    Answer::Failed(error) => writeln!(out, "t{of} failed: {error}")?,
                    Answer::Unknown => writeln!(out, "t{of}: nobody knows")?,
                },
                Event::Over(_) => {}
                Event::Waits(of) => writeln!(out, "push {of} waits")?,
                Event::Pushed(of, what) => writeln!(out, "push {of}: {}", verdict(&what))?,
                Event::Recovers(of) => writeln!(out, "{} begins", actor(of))?,
                Event::Contradiction(what) => writeln!(out, "CONTRADICTION: {what}")?,
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Done {
        for (number, range) in self.world.ranges.iter().enumerate() {
            let tables = &range.tables;
            for (key, intent) in &tables.intents {
                writeln!(
                    self.out,
                    "r{number} intent {}={} of {} at {}",
                    key.escape_ascii(),
                    show(intent.value.as_deref()),
                    name(intent.who.id),
                    at(intent.ts)
                )?;
            }
            for (key, versions) in &tables.versions {
                for (ts, stored) in versions.iter().filter(|(ts, _)| ts.wall_ns > 1) {
                    let (key, value) = (key.escape_ascii(), show(stored.value.as_deref()));
                    writeln!(self.out, "r{number} {key}={value} at {}", at(*ts))?;
                }
            }
            for of in self.world.txns.keys() {
                let held = range.locks.keys_of(id(*of));
                if !held.is_empty() {
                    writeln!(self.out, "r{number} locked by t{of}: {}", keys_text(&held))?;
                }
            }
            for (of, record) in &tables.records {
                let status = format!("{:?}", record.status).to_lowercase();
                writeln!(
                    self.out,
                    "r{number} record of {}: {status} at {}",
                    name(*of),
                    at(record.write_ts)
                )?;
            }
            for (of, ended) in &tables.memory {
                writeln!(
                    self.out,
                    "r{number} remembers {}: {}",
                    name(*of),
                    outcome(Some(*ended))
                )?;
            }
        }
        Ok(())
    }

    fn list(&mut self) -> Done {
        for (number, packet) in self.world.net.iter().enumerate() {
            match packet {
                Packet::Ask(from, batch) => {
                    let requests: Vec<_> = batch.requests.iter().map(|(_, of)| request(of)).collect();
                    writeln!(
                        self.out,
                        "{number}: {} asks {}",
                        actor(*from),
                        requests.join(", ")
                    )?;
                }
                Packet::Tell(to, _, Ok(replies)) => {
                    let replies: Vec<_> = replies.iter().map(|(_, of)| reply(of)).collect();
                    writeln!(self.out, "{number}: to {}: {}", actor(*to), replies.join(", "))?;
                }
                Packet::Tell(to, _, Err((_, of))) => {
                    writeln!(self.out, "{number}: to {}: {}", actor(*to), refusal(of))?;
                }
            }
        }
        Ok(())
    }

    fn command(
        &mut self,
        prefix: Option<&str>,
        command: &str,
        words: &[&str],
        pairs: &[(&str, &str)],
    ) -> Done {
        let word = |at: usize| words.get(at).copied().ok_or("an argument is missing");
        let number = |at: usize| -> Result<u64, Box<dyn Error>> { Ok(word(at)?.parse()?) };
        let position = |at: usize| -> Result<usize, Box<dyn Error>> { Ok(word(at)?.parse()?) };
        let pair = |key: &str| {
            pairs
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| *value)
        };
        let txn = |text: &str| -> Result<usize, Box<dyn Error>> {
            Ok(text
                .strip_prefix('t')
                .ok_or("transactions are t1, t2, …")?
                .parse()?)
        };
        let world = &mut self.world;
        if let Some(prefix) = prefix {
            return self.txn_command(txn(prefix)?, command, words, pairs);
        }
        match command {
            "ranges" => *world = World::new(words),
            "now" => world.now = number(0)?,
            "expiry" => world.expiry_ns = number(0)?,
            "bound" => world.config.clock_bound_ns = number(0)?,
            "refreshes" => world.config.refreshes_max = word(0)?.parse()?,
            "resends" => world.config.resends_max = word(0)?.parse()?,
            "promises" => world.config.promises_max = word(0)?.parse()?,
            "set" => {
                let when = ts(pair("at").unwrap_or("1").parse()?);
                for (key, value) in pairs.iter().filter(|(key, _)| *key != "at") {
                    let place = world.place(key.as_bytes());
                    world.ranges[place]
                        .tables
                        .put(&bytes(key), when, when, Some(bytes(value)));
                }
            }
            "hold" => self.holds = true,
            "net" => self.list()?,
            "run" => {
                self.holds = false;
                world.run();
            }
            "others" => {
                let kept = world.net.remove(position(0)?);
                world.run();
                world.net.push(kept);
            }
            "deliver" | "repeat" | "drop" | "lose" | "misroute" => {
                let packet = world.net[position(0)?].clone();
                if command != "repeat" {
                    world.net.remove(position(0)?);
                }
                match (command, packet) {
                    ("drop", _) => {}
                    ("misroute", Packet::Ask(from, batch)) => world.misroute(from, &batch),
                    ("lose", Packet::Ask(from, batch)) => {
                        let first = &batch.requests[0].1;
                        let sender = batch.header.as_ref().map(|header| &header.who);
                        let place = world.place(first.key(sender));
                        let before = world.ranges[place].tables.clone();
                        world.deliver(Packet::Ask(from, batch));
                        world.ranges[place].tables = before;
                        world.ranges[place].take_over(ts(world.now));
                    }
                    ("lose" | "misroute", Packet::Tell(..)) => return Err("it is not a request".into()),
                    (_, packet) => world.deliver(packet),
                }
            }
            "push" => {
                let push = match (pair("above"), words.get(1)) {
                    (Some(above), _) => Push::Above(ts(above.parse()?)),
                    (None, Some(&"force")) => Push::Force,
                    (None, _) => Push::Abort,
                };
                let by = pair("by").map(txn).transpose()?;
                self.pushes += 1;
                if !world.push(self.pushes, word(0)?, by, push) {
                    writeln!(self.out, "nobody has an intent on {}", word(0)?)?;
                }
            }
            "again" => world.push_again(position(0)?),
            "outcome" => {
                let of = txn(word(0)?)?;
                self.pushes += 1;
                let seen = Seen {
                    who: world.txns[&of].coordinator.who().clone(),
                    epoch: Epoch(0),
                    ts: ts(0),
                    local_ts: ts(0),
                };
                world.push_seen(self.pushes, seen, None, None, Push::Force);
            }
            "read" => {
                let (key, read_ts) = (word(0)?, ts(pair("at").ok_or("at=")?.parse()?));
                let limit = pair("limit").map_or(Ok(read_ts), |limit| limit.parse().map(ts))?;
                let place = world.place(key.as_bytes());
                let range = &mut world.ranges[place];
                let mut context = range.context(ts(world.now), world.expiry_ns);
                if let Some(observed) = pair("observed") {
                    context.observed = ts(observed.parse()?);
                }
                let reader = Reader {
                    who: None,
                    epoch: Epoch(0),
                    read_ts,
                    limit,
                    ignored: &[],
                };
                let read = corelane_txn::evaluate::get(
                    &range.tables,
                    &mut range.cache,
                    &context,
                    &reader,
                    key.as_bytes(),
                    show,
                );
                let Ok(read) = read;
                writeln!(self.out, "{}", read.unwrap_or_else(|of| refusal(&of)))?;
            }
            "close" | "transfer" | "takeover" => {
                let place = world.place(word(0)?.as_bytes());
                let range = &mut world.ranges[place];
                match command {
                    "close" => range.closed = ts(number(1)?),
                    "transfer" => range.transfer(),
                    _ => range.take_over(ts(world.now)),
                }
                if command != "close" {
                    range.lease_start = ts(world.now);
                }
            }
            "split" => world.split(word(0)?),
            "merge" => world.merge(word(0)?),
            "forget" => {
                let of = id(txn(word(0)?)?);
                for range in &mut world.ranges {
                    range.tables.memory.remove(&of);
                    range.tables.forgotten.insert(of);
                }
            }
            "state" => self.state()?,
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(())
    }

    fn txn_command(&mut self, of: usize, command: &str, words: &[&str], pairs: &[(&str, &str)]) -> Done {
        let world = &mut self.world;
        let now = ts(world.now);
        match command {
            "begin" => {
                let mut isolation = Isolation::Snapshot;
                let mut priority = Priority::Normal;
                for word in words {
                    match *word {
                        "snapshot" => isolation = Isolation::Snapshot,
                        "serializable" => isolation = Isolation::Serializable,
                        "strict" => isolation = Isolation::StrictSerializable,
                        "low" => priority = Priority::Low,
                        "normal" => priority = Priority::Normal,
                        "high" => priority = Priority::High,
                        other => return Err(format!("what is {other}?").into()),
                    }
                }
                let name = pairs
                    .iter()
                    .find(|(key, _)| *key == "name")
                    .map_or("", |(_, name)| name);
                world.begin(of, name, (isolation, priority));
            }
            "put" => world.call(of, |txn| {
                for (key, value) in pairs {
                    txn.write(bytes(key), Some(bytes(value)));
                }
            }),
            "del" => world.call(of, |txn| words.iter().for_each(|key| txn.write(bytes(key), None))),
            "get" => world.call(of, |txn| txn.read(words.iter().map(|key| bytes(key)).collect())),
            "lock" | "share" => {
                let strength = match command {
                    "lock" => Strength::Exclusive,
                    _ => Strength::Shared,
                };
                let keys = words.iter().map(|key| bytes(key)).collect();
                world.call(of, |txn| txn.read_locked(keys, strength));
            }
            "scan" => {
                let (start, end) = (words.first().ok_or("FROM")?, words.get(1).ok_or("TO")?);
                world.call(of, |txn| {
                    txn.scan(Keys::Span(bytes(start), Some(bytes(end))), 100);
                });
            }
            "delrange" => {
                let (start, end) = (words.first().ok_or("FROM")?, words.get(1).ok_or("TO")?);
                let keys = Keys::Span(bytes(start), Some(bytes(end)));
                world.call(of, |txn| txn.delete_range(keys));
            }
            "add" | "append" => {
                for (key, value) in pairs.iter().filter(|(key, _)| !matches!(*key, "floor" | "most")) {
                    let change = change(command, value, pairs)?;
                    world.call(of, |txn| txn.change(bytes(key), &change));
                }
            }
            "shot" => {
                let (first, words): (Vec<&str>, Vec<&str>) =
                    words.iter().partition(|word| word.starts_with("first."));
                let shot = one_shot(&words, pairs)?;
                let first = first.iter().filter_map(|word| word.strip_prefix("first."));
                let first: Vec<_> = first.map(bytes).collect();
                let ranges: Vec<_> = world
                    .ranges
                    .iter()
                    .map(|range| range.tables.start.clone())
                    .collect();
                let place = |key: &[u8]| ranges.iter().filter(|start| ***start <= *key).count();
                world.call(of, |txn| {
                    txn.one_shot_in_turn(shot, &first, |one, other| place(one) == place(other));
                });
            }
            "flush" => world.call(of, corelane_txn::Coordinator::flush),
            "commit" => world.call(of, corelane_txn::Coordinator::commit),
            "rollback" => world.call(of, corelane_txn::Coordinator::roll_back),
            "restart" => world.call(of, |txn| txn.restart(now)),
            "beat" => world.call(of, |txn| txn.tick(u64::MAX)),
            "observe" => {
                let node = NodeId(words.first().ok_or("RANGE")?.parse()?);
                world.call(of, |txn| txn.observe(node, now));
            }
            "savepoint" => {
                let savepoints = &mut self.savepoints;
                world.call(of, |txn| {
                    savepoints.insert(of, txn.savepoint());
                });
            }
            "return" => {
                let to = self.savepoints[&of];
                world.call(of, |txn| txn.return_to(to));
            }
            "stop" => world.stop(of),
            "lost" => world.lose(Actor::Txn(of)),
            other => return Err(format!("unknown call {other}").into()),
        }
        Ok(())
    }
}

fn change(how: &str, value: &str, pairs: &[(&str, &str)]) -> Result<Change, Box<dyn Error>> {
    let bound = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    Ok(match how {
        "put" => Change::Set(Some(bytes(value))),
        "add" => Change::Add {
            delta: value.parse()?,
            min: bound("floor").map_or(Ok(i64::MIN), str::parse)?,
            max: i64::MAX,
        },
        "append" => Change::Append {
            bytes: bytes(value),
            len_max: bound("most").map_or(Ok(u32::MAX), str::parse)?,
        },
        other => return Err(format!("how does one {other}?").into()),
    })
}

fn one_shot(words: &[&str], pairs: &[(&str, &str)]) -> Result<OneShot, Box<dyn Error>> {
    let (mut conditions, mut changes) = (Vec::new(), Vec::new());
    let mut must = |key: &str, must| {
        conditions.push(Condition {
            number: u32::try_from(conditions.len()).expect("few"),
            key: bytes(key),
            must,
        });
    };
    for (what, value) in pairs {
        let Some((how, key)) = what.split_once('.') else {
            continue;
        };
        match how {
            "is" => must(key, Must::Equal(bytes(value))),
            "from" => must(key, Must::Version(ts(value.parse()?))),
            "within" => {
                let (min, max) = value.split_once("..").ok_or("N..N")?;
                let (min, max) = (min.parse()?, max.parse()?);
                must(key, Must::Within { min, max });
            }
            how => changes.push((bytes(key), change(how, value, pairs)?)),
        }
    }
    for word in words {
        match word.split_once('.') {
            Some(("absent", key)) => must(key, Must::Absent),
            Some(("present", key)) => must(key, Must::Present),
            Some(("del", key)) => changes.push((bytes(key), Change::Set(None))),
            _ => return Err(format!("what is {word}?").into()),
        }
    }
    Ok(OneShot { conditions, changes })
}

impl goldenscript::Runner for Stage {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut words = Vec::new();
        let mut pairs = Vec::new();
        for argument in &command.args {
            match argument {
                goldenscript::Argument::Positional(value) => words.push(value.as_str()),
                goldenscript::Argument::KeyValue(key, value) => pairs.push((key.as_str(), value.as_str())),
                other => return Err(format!("cannot use {other}").into()),
            }
        }
        self.command(context.prefix.as_deref(), &command.name, &words, &pairs)?;
        if !self.holds {
            self.world.run();
        }
        self.print_events()?;
        Ok(std::mem::take(&mut self.out))
    }
}
