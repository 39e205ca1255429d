//! `corelane bench`: the load generator of the crate `bench`, on the command line.

use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;
use bench::{BenchArgs, BenchError};

pub(crate) fn run(args: &BenchArgs) -> Outcome {
    let config = args.config().map_err(|error| explain(&error, Exit::Usage))?;
    let outcome = bench::run(&config).map_err(|error| explain(&error, Exit::Unavailable))?;
    let mut out = Output::new();
    out.line(bench::print(&outcome).trim_end())?;
    if args.timeline {
        out.line(bench::print_timeline(&outcome).trim_end())?;
    }
    out.flush()?;
    args.write_files(&outcome)
        .map_err(|error| explain(&error, Exit::Io))?;
    Ok(Exit::Ok)
}

fn explain(error: &BenchError, exit: Exit) -> CliError {
    let code = match exit {
        Exit::Usage => crate::error::code::USAGE,
        Exit::Io => crate::error::code::LOCAL_FILE,
        _ => wire::Code::Unavailable.number(),
    };
    let mut source = std::error::Error::source(error);
    let mut causes = Vec::new();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    let told = CliError::new(code, exit, error.to_string());
    if causes.is_empty() {
        told
    } else {
        told.cause(causes.join(": "))
    }
}
