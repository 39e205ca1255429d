//! The load generator by itself: `cargo run --release -p corelane-bench --example load -- put --target redis://127.0.0.1:6379`.

use clap::Parser;
use corelane_bench::{BenchArgs, BenchError, print, run};

/// Puts load on a server and reports what came of it.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    bench: BenchArgs,
}

fn bench(args: &BenchArgs) -> Result<(), BenchError> {
    let outcome = run(&args.config()?)?;
    print!("{}", print(&outcome));
    args.write_files(&outcome)
}

fn main() -> std::process::ExitCode {
    match bench(&Args::parse().bench) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
