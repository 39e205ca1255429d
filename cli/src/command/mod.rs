//! The commands: one file each, an `Args` struct for clap and a `run`.

pub(crate) mod add;
pub(crate) mod bench;
pub(crate) mod check;
mod cluster;
pub(crate) mod completions;
pub(crate) mod debug;
pub(crate) mod del;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod import;
mod layout;
pub(crate) mod node;
mod placement;
pub(crate) mod policy;
pub(crate) mod put;
pub(crate) mod range;
pub(crate) mod scan;
pub(crate) mod script;
pub(crate) mod shell;
pub(crate) mod start;
pub(crate) mod start_error;
pub(crate) mod status;
pub(crate) mod txn;
pub(crate) mod version;

use crate::args::{BenchCommand, Command, Global, With};
use crate::error::{CliError, Outcome};

/// Runs one command. Says also whether errors go to a program (`--json`).
pub(crate) fn run(command: Command) -> (Outcome, bool) {
    match command {
        Command::Start(with) => call(with, |global, args| start::run(global, &args)),
        Command::Demo(with) => call(with, |global, args| demo::run(global, &args)),
        Command::Doctor(with) => call(with, |global, args| doctor::run(global, &args)),
        Command::Get(with) => call(with, get::run),
        Command::Put(with) => call(with, put::run),
        Command::Add(with) => call(with, add::run),
        Command::Txn(with) => call(with, |global, args| txn::run(global, &args)),
        Command::Del(with) => call(with, del::run),
        Command::Scan(with) => call(with, scan::run),
        Command::Shell(with) => call(with, shell::run),
        Command::Import(with) => call(with, |global, args| import::run(global, &args)),
        Command::Export(with) => call(with, export::run),
        Command::Status(with) => call(with, |global, args| status::run(global, &args)),
        Command::Range(with) => call(with, range::run),
        Command::Node(with) => call(with, |global, args| node::run(global, &args)),
        Command::Policy(with) => call(with, policy::run),
        Command::Bench(command) => bench(command),
        Command::Script(with) => call(with, script::run),
        Command::Check(with) => call(with, |global, args| check::run(global, &args)),
        Command::Debug(with) => call(with, debug::run),
        Command::Explain(with) => call(with, |global, args| explain::run(global, &args)),
        Command::Completions(args) => (completions::run(&args), false),
        Command::Version(with) => call(with, |global, _| version::run(global)),
    }
}

fn bench(command: BenchCommand) -> (Outcome, bool) {
    match (command.history, command.load) {
        (Some(history), _) => history::run(history),
        (None, Some(args)) => (bench::run(&args), false),
        (None, None) => {
            let error = CliError::usage("a workload is missing").help("`corelane bench --help` lists them");
            (Err(error), false)
        }
    }
}

fn call<T: clap::Args>(with: With<T>, run: impl FnOnce(&Global, T) -> Outcome) -> (Outcome, bool) {
    (run(&with.global, with.args), with.global.json)
}
