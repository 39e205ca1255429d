//! Golden scripts: what a log asks of the disk, and what it recovers. `UPDATE_GOLDENFILES=1` rewrites them.
//!
//! ```text
//! open [segment=N] [spare=N] [flight=N] [busy=N] [batch=N] [seal=MS]   opens the log; prints what it recovers
//! entry RANGE INDEX [bytes=N] [term=N]   hard RANGE term=N [vote=N]   truncate RANGE AFTER   forget RANGE
//! submit        starts the write of what is staged      turn          lets writes complete once
//! wait          until everything staged is durable      sleep MS      lets time pass
//! cover RANGE INDEX                                     close         in order
//! read RANGE FIRST LAST [bytes=N]       shows entries that are durable and count, and where the read ended
//! crash         forgets the process, keeps the disk     damage FILE byte=N | zero=BLOCK   changes the disk
//! kill          ends the process; the machine goes on   power         the machine loses all that is not durable
//! verify        prints the log without opening it       state         prints counters
//! ```

mod fixtures;

use base::{Index, RangeId, ReplicaId, Seqno, Term};
use core::time::Duration;
use corelane_log::verify::{Found, verify};
use corelane_log::{EntryKind, Log, LogConfig, Record};
use env::{Clock, Env, Tasks};
use fixtures::{Calls, RecordingEnv};
use goldenscript::{ArgumentConsumer, Command, Context};
use sim::{DiskImage, ImageMachine};
use std::error::Error;
use std::fmt::Write;

test_each_file::test_each_path! { in "engine/log/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut Runner::new(), path).expect("the script runs");
}}

struct Runner {
    machine: ImageMachine,
    calls: Calls,
    config: LogConfig,
    log: Option<Log<RecordingEnv>>,
    staged: Seqno,
}

fn show(record: &Record<'_>) -> String {
    match record {
        Record::Entry {
            range,
            index,
            term,
            payload,
            ..
        } => {
            format!("{range} entry {index} {term} {} bytes", payload.len())
        }
        Record::HardState {
            range,
            term,
            vote,
            commit,
        } => {
            let vote = vote.map_or("nobody".to_owned(), |vote| vote.to_string());
            format!("{range} hard state {term} vote {vote} commit {commit}")
        }
        Record::Truncate { range, after } => format!("{range} truncate after {after}"),
        Record::Forget { range } => format!("{range} forget"),
    }
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str, default: u64) -> Result<u64, Box<dyn Error>> {
    Ok(args.take_key(key).map_or(Ok(default), str::parse)?)
}

fn position(args: &mut ArgumentConsumer<'_>) -> Result<u64, Box<dyn Error>> {
    Ok(args
        .next_pos()
        .ok_or("a number is missing")?
        .trim_start_matches('r')
        .parse()?)
}

impl Runner {
    fn new() -> Self {
        let config = LogConfig {
            segment_bytes: 16 << 10,
            segments_spare: 1,
            segments_kept_max: 2,
            write_min_bytes_when_busy: 1,
            seal_after: None,
            ..LogConfig::default()
        };
        let machine = ImageMachine::new(&DiskImage::new());
        Self {
            machine,
            calls: Calls::default(),
            config,
            log: None,
            staged: Seqno::ZERO,
        }
    }

    fn env(&self) -> RecordingEnv {
        RecordingEnv::new(self.machine.env(), self.calls.clone())
    }

    fn open(&mut self) -> String {
        let env = self.env();
        let mut out = String::new();
        let visit = &mut |position: corelane_log::Position, record: Record<'_>| {
            let (seqno, segment, offset) = (position.seqno, position.segment, position.offset);
            writeln!(out, "{} ({seqno}, segment {segment} at {offset})", show(&record)).expect("text");
        };
        let opened = self
            .machine
            .block_on(Log::open(&env, "wal", self.config.clone(), visit));
        self.settle();
        match opened {
            Ok((log, recovered)) => {
                self.staged = recovered.last;
                self.log = Some(log);
                let (last, segments, incarnation) =
                    (recovered.last, recovered.segments, recovered.incarnation);
                writeln!(
                    out,
                    "opened: last {last}, {segments} segments, incarnation {incarnation}"
                )
                .expect("text");
                if let Some(cut) = recovered.cut {
                    writeln!(
                        out,
                        "cut: {} of {} at {}: {}",
                        cut.seqno, cut.file, cut.offset, cut.found
                    )
                    .expect("text");
                }
            }
            Err(error) => writeln!(out, "error: {error}").expect("text"),
        }
        out
    }

    /// Lets background work end.
    fn settle(&self) {
        let env = self.machine.env();
        self.machine.block_on(async {
            for _ in 0..32 {
                env.tasks().yield_now().await;
            }
        });
    }

    fn log(&self) -> Result<&Log<RecordingEnv>, Box<dyn Error>> {
        Ok(self.log.as_ref().ok_or("the log is not open")?)
    }

    fn append(&mut self, record: &Record<'_>) -> Result<String, Box<dyn Error>> {
        self.staged = self.log()?.append(record);
        Ok(format!("staged in {}\n", self.staged))
    }

    fn restart(&mut self, change: impl FnOnce(&mut DiskImage)) {
        let mut image = self.machine.image();
        change(&mut image);
        self.go_on(ImageMachine::new(&image));
    }

    fn go_on(&mut self, machine: ImageMachine) {
        self.log = None;
        self.machine = machine;
        self.calls.take();
    }

    fn verify(&self) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let env = self.env();
        let report = self
            .machine
            .block_on(verify(&env, "wal", self.config.shard, &mut |found| {
                match found {
                    Found::Segment { file, header, .. } => writeln!(
                        out,
                        "{file}: segment {} after segment {} at {}, persisted {}, first live {}",
                        header.segment,
                        header.predecessor.segment,
                        header.predecessor.seqno,
                        header.persisted,
                        header.first_live
                    ),
                    Found::Batch { offset, header } => writeln!(
                        out,
                        "  {offset}: {:?} {}, persisted {}, first live {}",
                        header.kind, header.seqno, header.persisted, header.first_live
                    ),
                    Found::Record { record, .. } => writeln!(out, "    {}", show(&record)),
                }
                .expect("text");
            }))?;
        self.calls.take();
        for (file, role) in &report.slots {
            writeln!(out, "{file}: {role:?}")?;
        }
        if let Some(end) = report.end {
            writeln!(
                out,
                "ends before {} at {} of {}: {}",
                end.seqno, end.offset, end.file, end.found
            )?;
        }
        if let Some(damage) = report.damage {
            writeln!(out, "damage: {damage}")?;
        }
        Ok(out)
    }

    fn state(&self) -> Result<String, Box<dyn Error>> {
        let log = self.log()?;
        let stats = log.stats();
        Ok(format!(
            "persisted {}, live {}, spare {}, staged {} bytes, in flight {}, oldest {:?}\n",
            log.persisted(),
            stats.segments_live,
            stats.segments_spare,
            stats.staged_bytes,
            stats.writes_in_flight,
            log.oldest_uncovered()
        ))
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut out = match command.name.as_str() {
            "open" => {
                self.config.segment_bytes = number(&mut args, "segment", self.config.segment_bytes)?;
                self.config.writes_in_flight_max =
                    number(&mut args, "flight", self.config.writes_in_flight_max as u64)?.try_into()?;
                self.config.write_min_bytes_when_busy =
                    number(&mut args, "busy", self.config.write_min_bytes_when_busy as u64)?.try_into()?;
                self.config.batch_bytes_max =
                    number(&mut args, "batch", self.config.batch_bytes_max as u64)?.try_into()?;
                self.config.seal_after = args
                    .take_key("seal")
                    .map(str::parse)
                    .transpose()?
                    .map(Duration::from_millis);
                self.open()
            }
            "entry" => {
                let (range, index) = (RangeId(position(&mut args)?), Index(position(&mut args)?));
                let payload = vec![7; number(&mut args, "bytes", 10)?.try_into()?];
                let term = Term(number(&mut args, "term", 1)?);
                self.append(&Record::Entry {
                    range,
                    index,
                    term,
                    chain: 0,
                    kind: EntryKind::Command,
                    payload: &payload,
                })?
            }
            "hard" => {
                let range = RangeId(position(&mut args)?);
                let term = Term(number(&mut args, "term", 1)?);
                let vote = args.take_key("vote").map(str::parse).transpose()?.map(ReplicaId);
                self.append(&Record::HardState {
                    range,
                    term,
                    vote,
                    commit: Index::ZERO,
                })?
            }
            "truncate" => {
                let (range, after) = (RangeId(position(&mut args)?), Index(position(&mut args)?));
                self.append(&Record::Truncate { range, after })?
            }
            "forget" => {
                self.staged = self.log()?.forget(RangeId(position(&mut args)?));
                format!("staged in {}\n", self.staged)
            }
            "cover" => {
                self.log()?
                    .cover(RangeId(position(&mut args)?), Index(position(&mut args)?));
                String::new()
            }
            "read" => {
                let range = RangeId(position(&mut args)?);
                let (first, last) = (Index(position(&mut args)?), Index(position(&mut args)?));
                let bytes_max = number(&mut args, "bytes", 1 << 20)?.try_into()?;
                let (log, mut shown) = (self.log()?.clone(), String::new());
                let visit = &mut |record: Record<'_>| writeln!(shown, "{}", show(&record)).expect("text");
                let read = log.read_entries(range, first, last, bytes_max, visit);
                let end = self.machine.block_on(read)?;
                format!("{shown}next {end}\n")
            }
            "submit" => {
                self.log()?.submit();
                String::new()
            }
            "turn" => {
                let env = self.machine.env();
                self.machine.block_on(env.tasks().yield_now());
                String::new()
            }
            "wait" => {
                let (log, staged) = (self.log()?.clone(), self.staged);
                log.submit();
                self.machine.block_on(async {
                    while log.persisted() < staged {
                        log.persisted_beyond(log.persisted()).await?;
                    }
                    Ok::<(), corelane_log::LogError>(())
                })?;
                self.settle();
                String::new()
            }
            "sleep" => {
                let (env, ms) = (self.machine.env(), position(&mut args)?);
                self.machine
                    .block_on(env.clock().sleep(Duration::from_millis(ms)));
                self.settle();
                String::new()
            }
            "close" => {
                let log = self.log.take().ok_or("the log is not open")?;
                self.machine.block_on(log.close())?;
                String::new()
            }
            "crash" => {
                self.restart(|_| {});
                String::new()
            }
            "kill" => {
                self.go_on(self.machine.killed());
                String::new()
            }
            "power" => {
                self.go_on(ImageMachine::new(&self.machine.image_least()));
                String::new()
            }
            "damage" => {
                let file = args.next_pos().ok_or("which file?")?.to_owned();
                let byte = args.take_key("byte").map(str::parse::<u64>).transpose()?;
                let zero = args.take_key("zero").map(str::parse::<u64>).transpose()?;
                self.restart(|image| {
                    byte.into_iter().for_each(|byte| image.flip_bit(&file, byte * 8));
                    zero.into_iter().for_each(|block| image.zero_block(&file, block));
                });
                String::new()
            }
            "remove" => {
                let file = args.next_pos().ok_or("which file?")?.to_owned();
                self.restart(|image| image.remove(&file));
                String::new()
            }
            "verify" => self.verify()?,
            "state" => self.state()?,
            name => return Err(format!("no command {name}").into()),
        };
        args.reject_next()?;
        for call in self.calls.take() {
            writeln!(out, "| {call}")?;
        }
        Ok(out)
    }
}
