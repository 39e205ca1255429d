//! Tablets by example: what reads see, and the order in which files are made durable.
//!
//! Each script in `tests/scripts` starts with an empty tablet `r2` over all keys. Commands:
//!
//! ```text
//!   write TS OP…          one entry; an OP is KEY=VALUE, KEY (delete), or START..END (END may be empty)
//!   get KEY TS            newest TS
//!   scan TS [reverse] [from=KEY] [to=KEY] [rows=N] [bytes=N]
//!   kill (the process ends, the machine goes on; then as restart) | power (what is not durable is lost; then as restart)
//!   nothing (an entry without writes) | freeze | flush | merge | gc TS | split KEY | complete | restart | stats | verify
//! ```
//!
//! `range=N` names another range than 2. Commands that change files print the calls to the disk, in order.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::key::{Escaped, Span};
use base::{RangeId, Timestamp};
use corelane_storage::{ScanPage, StorageConfig, Tablet};
use fixtures::recorder::Recorder;
use fixtures::{Op, ROOT, World, state};
use goldenscript::{Argument, ArgumentConsumer, Command, Context};
use sim::{DiskImage, ImageMachine};
use std::error::Error;
use std::fmt::Write as _;

test_each_file::test_each_path! { in "engine/storage/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut Runner::new(), path).expect("the script runs");
}}

struct Runner {
    machine: ImageMachine,
    env: Recorder,
    world: World<Recorder>,
}

fn at(wall: &str) -> Result<Timestamp, Box<dyn Error>> {
    Ok(Timestamp::new(wall.parse()?, 0))
}

fn op(text: &str) -> Op {
    let bytes = |text: &str| text.as_bytes().to_vec();
    if let Some((key, value)) = text.split_once('=') {
        Op::Put(bytes(key), bytes(value))
    } else if let Some((start, end)) = text.split_once("..") {
        Op::DeleteRange(bytes(start), (!end.is_empty()).then(|| bytes(end)))
    } else {
        Op::Delete(bytes(text))
    }
}

impl Runner {
    fn new() -> Self {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = Recorder::new(&machine);
        let config = StorageConfig {
            tables_merge_min: 2,
            ..StorageConfig::default()
        };
        let world = machine.block_on(World::create(env.clone(), config));
        env.take();
        Self { machine, env, world }
    }

    fn calls(&self) -> String {
        self.env
            .take()
            .iter()
            .fold(String::new(), |all, call| all + call + "\n")
    }

    fn write(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let ts = at(args.next_pos().ok_or("write TS OP…")?)?;
        let mut ops = Vec::new();
        // An operation `key=value` parses as a keyed argument.
        for arg in args {
            ops.push(match arg {
                Argument::Positional(text) => op(text),
                Argument::KeyValue(key, value) => op(&format!("{key}={value}")),
                other => return Err(format!("no operation {other:?}").into()),
            });
        }
        let index = self.world.write_at(ts, ops);
        Ok(format!("applied at {index}\n"))
    }

    fn get(
        &self,
        tablet: &Tablet<Recorder>,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<String, Box<dyn Error>> {
        let key = args.next_pos().ok_or("get KEY TS")?.as_bytes();
        let read_ts = at(args.next_pos().ok_or("get KEY TS")?)?;
        let found = self.machine.block_on(tablet.get(key, read_ts))?;
        Ok(found.map_or("none\n".into(), |(ts, value)| {
            format!("{} at {}\n", Escaped(&value), ts.wall_ns)
        }))
    }

    fn scan(
        &self,
        tablet: &Tablet<Recorder>,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<String, Box<dyn Error>> {
        let (from, to) = (args.take_key("from").unwrap_or_default(), args.take_key("to"));
        let (rows, bytes) = (args.take_key("rows"), args.take_key("bytes"));
        let read_ts = at(args.next_pos().ok_or("scan TS")?)?;
        let page = ScanPage {
            span: Span::new(from.as_bytes(), to.map(str::as_bytes)),
            read_ts,
            reverse: args.next_pos() == Some("reverse"),
            rows_max: rows.map_or(Ok(100), str::parse)?,
            bytes_max: bytes.map_or(Ok(1_000), str::parse)?,
        };
        let rows = self.machine.block_on(tablet.scan_page(&page))?;
        let mut out = String::new();
        for (key, value, ts) in rows.iter() {
            writeln!(out, "{}={} at {}", Escaped(key), Escaped(value), ts.wall_ns)?;
        }
        match &rows.resume {
            Some(resume) => writeln!(out, "resume {}", Escaped(resume))?,
            None => writeln!(out, "end")?,
        }
        Ok(out)
    }

    fn stats(tablet: &Tablet<Recorder>) -> String {
        let stats = tablet.stats();
        format!(
            "{} {:?} applied {} flushed {} ({}), frozen {}, tables {}, splits pending {}\n",
            tablet.range(),
            tablet.span(),
            tablet.applied_index(),
            tablet.flushed_index(),
            Escaped(&tablet.app_state()),
            stats.frozen,
            stats.tables,
            stats.splits_pending,
        )
    }

    fn restart(&mut self, machine: ImageMachine) -> Result<String, Box<dyn Error>> {
        self.world.tablets.clear();
        self.machine = machine;
        self.env = Recorder::new(&self.machine);
        self.machine.block_on(self.world.restart(self.env.clone()))?;
        Ok(self.calls())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let range = args
            .take_key("range")
            .map_or(Ok(ROOT.0), str::parse)
            .map(RangeId)?;
        let tablet = self.world.tablets.get(&range).ok_or("no such range")?.clone();
        match command.name.as_str() {
            "write" => return self.write(&mut args),
            "get" => return self.get(&tablet, &mut args),
            "scan" => return self.scan(&tablet, &mut args),
            "freeze" => tablet.freeze(state(range, tablet.applied_index()), false),
            "flush" => drop(self.machine.block_on(tablet.flush())?.to_string()),
            "merge" => match tablet.pick_merge() {
                Some(plan) => self.machine.block_on(tablet.merge(plan))?,
                None => return Ok("nothing to merge\n".into()),
            },
            "nothing" => self.world.write_nothing(range),
            "gc" => {
                self.world.gc_threshold = at(args.next_pos().ok_or("gc TS")?)?;
                self.world.shared.set_gc_threshold(self.world.gc_threshold);
            }
            "split" => drop(
                self.world
                    .split(args.next_pos().ok_or("split KEY")?.as_bytes())
                    .0
                    .to_string(),
            ),
            "complete" => self.machine.block_on(tablet.complete_split())?,
            "restart" => {
                drop(tablet);
                return self.restart(ImageMachine::new(&self.machine.image()));
            }
            "kill" => {
                drop(tablet);
                return self.restart(self.machine.killed());
            }
            "power" => {
                drop(tablet);
                return self.restart(ImageMachine::new(&self.machine.image_least()));
            }
            "stats" => return Ok(self.world.tablets.values().map(Self::stats).collect()),
            "verify" => {
                return Ok(format!(
                    "{:?}\n",
                    self.machine.block_on(Tablet::verify(&self.env, range))?
                ));
            }
            other => return Err(format!("no command {other}").into()),
        }
        args.reject_next()?;
        Ok(self.calls())
    }
}
