//! `corelane demo`: a cluster of real processes on this machine, a bank over it, and commands that break things.
//!
//! ```text
//!   lines ─► command ─► nodes: processes of `corelane start`      relay: the network between them
//!                          ▲                                        │
//!   bank ── client library ┘   watch ── status of each node         └─ cut, heal
//!     └─► ledger: total, transfers, gaps ─► view
//! ```
//!
//! The main thread reads commands and starts processes; a thread serves the relays, another one the bank and the watch.
//!
//! Invariants:
//! - No node outlives the demonstration, however it ends (`start --parent`).
//! - A total that is wrong ends it with an error, and then the data stays.

mod bank;
mod command;
mod ledger;
mod live;
mod nodes;
mod relay;
mod stage;
mod view;
mod watch;

use crate::args::Global;
use crate::command::shell::Shell;
use crate::error::{CliError, Exit, Outcome, code, colour_wanted};
use crate::output::Object;
use clap::Args;
use command::{COMMANDS, Command, Disk};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use serde_json::Value;
use stage::{Business, Stage};
use std::io::{BufRead as _, ErrorKind, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane demo                                  three nodes, a bank, a prompt: try `kill leader`, `heal`, `help`
  corelane demo --nodes 5 --data /var/tmp/demo   five nodes; their data stays there
  corelane demo -c 'kill leader' -c wait -c bank without a prompt: how long did the bank stand still?
  printf 'kill 1\\nsleep 2\\nstatus\\n' | corelane demo

The nodes are processes of this program on 127.0.0.1, so other commands can talk to them: --connect as the first line says.
The bank moves money between accounts; each second all accounts are read in one snapshot, and their total must be what it was
at first. If it ever is not, the demonstration ends with exit code 65. Slow and full disks are pretended: the machine's own is left alone.

When it ends, the nodes end and the data is removed, unless --data or --keep is given. A demonstration that is killed with
kill -9 takes its nodes along and leaves the data.";

/// Run a cluster on this machine, with a bank over it, and break things.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Nodes: 1, 3 or 5
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_nodes)]
    nodes: u64,
    /// The data of the nodes goes there and stays; a new temporary directory, removed at the end, unless given
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the data of the temporary directory
    #[arg(long)]
    keep: bool,
    /// Node 1 listens at this port, each other one 100 further; 7400, or free ones when those are taken, unless given
    #[arg(long, value_name = "PORT")]
    port_base: Option<u16>,
    /// Shards of each node
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: u16,
    /// Accounts of the bank, with 1,000 each at first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    accounts: u64,
    /// Run this command, and end; may be given several times
    #[arg(long, short = 'c', value_name = "COMMAND")]
    command: Vec<String>,
    /// Without a prompt: say each second how the bank is
    #[arg(long)]
    verbose: bool,
}

fn parse_nodes(text: &str) -> Result<u64, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a demonstration has 1, 3 or 5 nodes".to_owned()),
    }
}

/// What the lines of a demonstration share.
struct Demo {
    global: Global,
    stage: Arc<Stage>,
    /// For commands of the shell, once there was one.
    shell: Option<Shell>,
}

/// Whether to read another line.
#[derive(PartialEq, Eq)]
enum Then {
    Go,
    Leave,
}

pub(crate) fn run(global: &Global, args: &DemoArgs) -> Outcome {
    let began = Instant::now();
    let stage = Arc::new(Stage::set(args)?);
    let business = stage.open_bank(args.verbose && !is_prompted(args))?;
    let mut demo = Demo {
        global: global.clone(),
        stage,
        shell: None,
    };
    let followed = demo.open(began).and_then(|then| match then {
        Then::Go => demo.follow(args),
        Then::Leave => Ok(Exit::Ok),
    });
    // What made a node fail may be in its data; a command that was wrong is no such thing.
    let keeps = followed.as_ref().is_err_and(|error| error.exit != Exit::Usage);
    demo.close(business, keeps)?;
    followed
}

/// Whether a person types commands.
fn is_prompted(args: &DemoArgs) -> bool {
    args.command.is_empty() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Demo {
    /// Prints one result. Whoever reads it may go away: then the demonstration ends as if asked to, so that nothing is left.
    fn say(&self, text: &str, json: &Value) -> Result<Then, CliError> {
        let mut out = std::io::stdout().lock();
        let said = if self.global.json {
            writeln!(out, "{json}")
        } else {
            writeln!(out, "{text}")
        };
        match said.and_then(|()| out.flush()) {
            Ok(()) => Ok(Then::Go),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Then::Leave),
            Err(error) => Err(
                CliError::new(code::LOCAL_FILE, Exit::Io, "cannot write to standard output")
                    .cause(error.to_string()),
            ),
        }
    }

    /// Starts all nodes, waits for the first transfer, and says where everything is.
    fn open(&self, began: Instant) -> Result<Then, CliError> {
        let stage = &self.stage;
        stage.nodes.start_down()?;
        let nodes_took = began.elapsed();
        stage.wait_for_transfer(began)?;
        let took = began.elapsed();
        let (count, data) = (stage.nodes.states().len(), stage.data.display());
        let text = format!(
            "corelane demo: {count} {} at {}, a bank of {} accounts, data in {data}, ready in {:.2} s",
            if count == 1 { "node" } else { "nodes" },
            stage.url,
            stage.accounts,
            took.as_secs_f64(),
        );
        let json = Object::new()
            .set("event", "ready")
            .set("connect", stage.url.clone())
            .set("data", data.to_string())
            .set("pids", stage.nodes.pids())
            .set("nodes_ready_ms", ms(nodes_took))
            .set("ready_ms", ms(took))
            .build();
        self.say(&text, &json)
    }

    /// Ends everything, and says how the bank ended.
    fn close(self, business: Business, keeps: bool) -> Result<(), CliError> {
        let (view, was_read) = self.stage.close(business, keeps);
        if view.transfers == 0 {
            // Why it did not open is said elsewhere.
            return Ok(());
        }
        let mut text = view::bank_text(&view);
        if !was_read {
            text.push_str("\n  the accounts could not be read at the end");
        }
        let json = Object::new()
            .set("event", "end")
            .set("bank", view::bank_json(&view))
            .set("read_at_end", was_read)
            .build();
        self.say(&text, &json).map(|_| ())
    }

    /// Runs the commands, wherever they come from.
    fn follow(&mut self, args: &DemoArgs) -> Outcome {
        if !args.command.is_empty() {
            return self.run_lines(args.command.iter().map(|line| Ok(line.clone())));
        }
        if is_prompted(args) {
            return self.interact();
        }
        self.run_lines(std::io::stdin().lock().lines())
    }

    /// Runs lines that nobody types: the first error ends them.
    fn run_lines(&mut self, lines: impl Iterator<Item = std::io::Result<String>>) -> Outcome {
        for line in lines {
            let line = line
                .map_err(|error| CliError::file("cannot read commands", "standard input".as_ref(), &error))?;
            if self.run_line(&line)? == Then::Leave {
                break;
            }
        }
        Ok(Exit::Ok)
    }

    fn interact(&mut self) -> Outcome {
        let failed = |error: ReadlineError| {
            CliError::new(code::LOCAL_FILE, Exit::Io, "the terminal cannot be read").cause(error.to_string())
        };
        let mut editor = DefaultEditor::new().map_err(failed)?;
        let mut printer = editor.create_external_printer().map_err(failed)?;
        // A terminal that is gone is found by the reader.
        self.stage
            .live
            .attach(Box::new(move |text| drop(printer.print(text))));
        println!("`help` lists the commands");
        loop {
            self.stage.live.begin();
            let read = editor.readline("demo> ");
            self.stage.live.end();
            match read {
                Ok(line) => {
                    // It is there for the arrow keys; nothing else is lost.
                    let _ = editor.add_history_entry(&line);
                    match self.run_line(&line) {
                        Ok(Then::Leave) => break,
                        Ok(Then::Go) => {}
                        Err(error) => eprint!("{}", error.render(colour_wanted(&std::io::stderr()))),
                    }
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Exit::Ok)
    }

    fn run_line(&mut self, line: &str) -> Result<Then, CliError> {
        let line = line.trim();
        let stage = self.stage.clone();
        let count = stage.nodes.states().len() as u64;
        let names_leader = line.split_whitespace().any(|word| word == "leader");
        let leader = names_leader.then(|| stage.leader()).flatten();
        let command = command::parse(line, count, leader).map_err(CliError::usage)?;
        let began = Instant::now();
        let text = match command {
            Command::Empty => return Ok(Then::Go),
            Command::Quit => return Ok(Then::Leave),
            Command::Kill(id) => {
                stage.fault(line, || stage.nodes.kill(id))?;
                format!("node {} is killed", id.0)
            }
            Command::Start(id) => {
                stage.fault(line, || stage.nodes.start(id))?;
                format!(
                    "node {} is ready after {:.2} s",
                    id.0,
                    began.elapsed().as_secs_f64()
                )
            }
            Command::Pause(id) => {
                stage.fault(line, || stage.nodes.pause(id))?;
                format!("node {} is paused", id.0)
            }
            Command::Resume(id) => {
                stage.fault(line, || stage.nodes.resume(id))?;
                format!("node {} goes on", id.0)
            }
            Command::Cut(one, other) => {
                stage.fault(line, || {
                    stage.relays.cut(one, other);
                    Ok(())
                })?;
                format!("nodes {} and {} do not hear each other", one.0, other.0)
            }
            Command::Disk(id, disk) => {
                stage.fault(line, || stage.nodes.set_disk(id, disk))?;
                let how = match disk {
                    Disk::Slow(true) => "slow",
                    Disk::Slow(false) => "fast again",
                    Disk::Full(true) => "full",
                    Disk::Full(false) => "not full any more",
                };
                format!("the disk of node {} is {how}", id.0)
            }
            Command::Heal => {
                stage.fault(line, || stage.heal())?;
                "all nodes run and hear each other".to_owned()
            }
            Command::Wait => {
                stage.wait_for_transfer(began)?;
                format!(
                    "a new transfer has succeeded after {:.2} s",
                    began.elapsed().as_secs_f64()
                )
            }
            Command::Sleep(time) => {
                std::thread::sleep(time);
                return Ok(Then::Go);
            }
            Command::Status => return self.status(),
            Command::Bank => {
                let view = stage.bank_view();
                return self.say(&view::bank_text(&view), &view::bank_json(&view));
            }
            Command::Help => {
                let line = |(name, arguments, meaning): &(&str, &str, &str)| {
                    format!("  {:<42} {meaning}", format!("{name} {arguments}"))
                };
                let text: Vec<_> = COMMANDS.iter().map(line).collect();
                let names: Vec<_> = COMMANDS.iter().map(|(name, ..)| *name).collect();
                return self.say(&text.join("\n"), &Object::new().set("commands", names).build());
            }
            Command::Shell(line) => {
                self.shell()?.execute(line)?;
                return Ok(Then::Go);
            }
        };
        let json = Object::new()
            .set("done", line)
            .set("took_ms", ms(began.elapsed()))
            .build();
        self.say(&text, &json)
    }

    fn status(&self) -> Result<Then, CliError> {
        let (nodes, cuts, bank) = (
            self.stage.node_views(),
            self.stage.relays.cuts(),
            self.stage.bank_view(),
        );
        let text = format!("{}\n{}", view::nodes_text(&nodes, &cuts), view::bank_line(&bank));
        let mut json = view::nodes_json(&nodes, &cuts);
        json["bank"] = view::bank_json(&bank);
        self.say(&text, &json)
    }

    /// The shell over all nodes.
    fn shell(&mut self) -> Result<&mut Shell, CliError> {
        if self.shell.is_none() {
            let global = Global {
                connect: self.stage.url.clone(),
                ..self.global.clone()
            };
            self.shell = Some(Shell::over(&global)?);
        }
        Ok(self.shell.as_mut().expect("it was just made"))
    }
}
