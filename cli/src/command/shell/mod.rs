//! `corelane shell`: the commands, interactive, with completion and history.

mod complete;
pub(crate) mod parse;

use crate::args::Global;
use crate::command::{explain, range, status};
use crate::error::{CliError, Exit, Outcome, code, colour_wanted};
use crate::output::{grouped, shown};
use crate::session::{Session, explain as explain_error};
use base::key::Span;
use base::{RangeId, ShardId};
use clap::Args;
use complete::Helper;
use corelane::Swap;
use parse::{COMMANDS, Line, ParseError};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane shell
  echo 'put a 1' | corelane shell                commands from standard input, one per line
  corelane shell -c 'get a'

`help` lists the commands; Tab completes them and the keys in the store. Lines are kept in ~/.local/state/corelane/history.";

/// Work interactively, with completion and history.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Run this command, and leave; may be given several times
    #[arg(long, short = 'c', value_name = "COMMAND")]
    command: Vec<String>,
    /// Keep the lines typed here; `none` keeps nothing
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

/// What the lines of one session share.
pub(crate) struct Shell {
    global: Global,
    session: Rc<Session>,
    timing: bool,
}

/// Whether to read another line.
#[derive(PartialEq, Eq)]
enum Then {
    Go,
    Leave,
}

pub(crate) fn run(global: &Global, args: ShellArgs) -> Outcome {
    let mut shell = Shell::over(global)?;
    if !args.command.is_empty() {
        return shell.run_lines(args.command.into_iter().map(Ok));
    }
    if !std::io::stdin().is_terminal() {
        return shell.run_lines(std::io::stdin().lock().lines());
    }
    shell.interact(args.history)
}

impl Shell {
    /// A shell over the nodes that `global` names.
    pub(crate) fn over(global: &Global) -> Result<Self, CliError> {
        Ok(Self {
            global: global.clone(),
            session: Rc::new(Session::open(global)?),
            timing: false,
        })
    }

    /// Runs lines that nobody types: the first error ends them.
    fn run_lines(&mut self, lines: impl Iterator<Item = std::io::Result<String>>) -> Outcome {
        let mut exit = Exit::Ok;
        for line in lines {
            let line = line
                .map_err(|error| CliError::file("cannot read commands", "standard input".as_ref(), &error))?;
            match self.run_line(&line)? {
                (Then::Leave, _) => break,
                (Then::Go, ended) => exit = ended,
            }
        }
        Ok(exit)
    }

    fn interact(&mut self, history: Option<PathBuf>) -> Outcome {
        let failed = |error: ReadlineError| {
            CliError::new(code::LOCAL_FILE, Exit::Io, "the terminal cannot be read").cause(error.to_string())
        };
        let config = Config::builder()
            .auto_add_history(true)
            .max_history_size(10_000)
            .map_err(failed)?
            .build();
        let mut editor: Editor<Helper, FileHistory> = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Helper::new(self.session.clone())));
        let history = history
            .or_else(default_history)
            .filter(|path| path.as_os_str() != "none");
        if let Some(path) = &history {
            // A history that is not there yet is no reason to stop.
            let _ = editor.load_history(path);
        }
        println!(
            "corelane {} at {}; `help` lists the commands",
            env!("CARGO_PKG_VERSION"),
            self.session.address
        );
        loop {
            match editor.readline("corelane> ") {
                Ok(line) => match self.run_line(&line) {
                    Ok((Then::Leave, _)) => break,
                    Ok((Then::Go, _)) => {}
                    Err(error) => eprint!("{}", error.render(colour_wanted(&std::io::stderr()))),
                },
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        if let Some(path) = &history {
            let kept = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            if let Err(error) = kept
                .map_err(ReadlineError::from)
                .and_then(|()| editor.save_history(path))
            {
                eprintln!("the history was not kept: {}: {error}", path.display());
            }
        }
        Ok(Exit::Ok)
    }

    fn run_line(&mut self, line: &str) -> Result<(Then, Exit), CliError> {
        let line = parse::parse(line).map_err(|ParseError(why)| CliError::usage(why))?;
        let began = Instant::now();
        let timed = !matches!(
            line,
            Line::Empty | Line::Help | Line::Timing | Line::Hex | Line::Explain { .. } | Line::Quit
        );
        let (then, exit) = match line {
            Line::Quit => (Then::Leave, Exit::Ok),
            line => (Then::Go, self.execute(line)?),
        };
        if self.timing && timed {
            println!("({:.3} ms)", began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok((then, exit))
    }

    pub(crate) fn execute(&mut self, line: Line) -> Outcome {
        let session = self.session.clone();
        let (db, global) = (&session.db, &self.global);
        match line {
            Line::Empty | Line::Quit => {}
            Line::Get { key } => match session.wait(db.get(&key))? {
                Some(value) => println!("{}", shown(global, &value)),
                None => {
                    println!("(not found)");
                    return Ok(Exit::NotFound);
                }
            },
            Line::Put { key, value } => {
                session.wait(db.put(&key, &value))?;
                println!("ok");
            }
            Line::Add { key, delta } => println!("{}", session.wait(db.add(&key, delta))?),
            Line::PutIfAbsent { key, value } => {
                return Ok(self.swapped(&session.wait(db.put_if_absent(&key, &value))?));
            }
            Line::Cas { key, expected, value } => {
                return Ok(self.swapped(&session.wait(db.compare_and_put(&key, &expected, &value))?));
            }
            Line::Del { key } => {
                session.wait(db.delete(&key))?;
                println!("ok");
            }
            Line::DelRange { start, end } => {
                session.wait(db.delete_range(Span::new(&start, end.as_deref())))?;
                println!("ok");
            }
            Line::Scan {
                start,
                end,
                reverse,
                limit,
            } => self.scan(&Span::new(&start, end.as_deref()), reverse, limit)?,
            Line::Ranges => println!("{}", range::listing(global, &session.wait(db.ranges())?)),
            Line::Split { key } => {
                let split = session.wait(db.split(&key))?;
                println!("{} starts there, on shard {}", split.right, split.right_shard);
            }
            Line::Move { range, shard } => {
                let moved = session.wait(db.move_range(RangeId(range), ShardId(shard)))?;
                println!("{} is on shard {}", moved.range, moved.shard);
            }
            Line::Status => {
                let text = session.wait(db.status())?;
                let status = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
                println!("{}", status::render(&session.address, &status));
            }
            Line::Timing => {
                self.timing = !self.timing;
                println!("timing is {}", if self.timing { "on" } else { "off" });
            }
            Line::Hex => {
                self.global.hex = !self.global.hex;
                println!(
                    "hexadecimal output is {}",
                    if self.global.hex { "on" } else { "off" }
                );
            }
            Line::Explain { code } => println!("{}", explain::text(&code)?),
            Line::Help => {
                for (name, arguments, meaning) in COMMANDS {
                    println!("  {:<44} {meaning}", format!("{name} {arguments}"));
                }
                println!(
                    "\nQuote what has blanks in it: \"a b\" knows \\n \\t \\xNN, 'a b' takes everything as it stands."
                );
            }
        }
        Ok(Exit::Ok)
    }

    fn swapped(&self, swap: &Swap) -> Exit {
        match swap {
            Swap::Written(_) => {
                println!("ok");
                Exit::Ok
            }
            Swap::Refused {
                found: Some(value), ..
            } => {
                println!("(not written: the value is {})", shown(&self.global, value));
                Exit::Conflict
            }
            Swap::Refused { found: None, .. } => {
                println!("(not written: there is no value)");
                Exit::Conflict
            }
        }
    }

    fn scan(&self, span: &Span, reverse: bool, limit: u64) -> Result<(), CliError> {
        let scan = self.session.db.scan(span.clone()).limit(limit);
        let scan = if reverse { scan.reverse() } else { scan };
        self.session.run(async {
            let mut rows = scan.rows();
            let mut count = 0;
            while let Some(row) = rows
                .next()
                .await
                .map_err(|error| explain_error(error, &self.session.address))?
            {
                println!(
                    "{}\t{}",
                    shown(&self.global, &row.key),
                    shown(&self.global, &row.value)
                );
                count += 1;
            }
            let more = if count == limit {
                ", perhaps more: add `limit N`"
            } else {
                ""
            };
            println!("({} rows{more})", grouped(count));
            Ok(())
        })
    }
}

/// Where the history is kept: `$XDG_STATE_HOME` or `~/.local/state`, below it `corelane/history`.
fn default_history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("corelane/history"))
}
