//! Sagas on corelane: trips are booked in steps, and undone when a step is refused, whoever is killed meanwhile.
//!
//! ```sh
//! corelane start &
//! saga='cargo run -q -p corelane --example saga -- 127.0.0.1:7400'
//! $saga setup                                        # four travellers, flights and hotels in two cities
//! $saga book t1=ada,oslo,120 t2=grace,rio,900        # makes the records of two sagas
//! $saga run                                          # does them; kill it at any moment, start it again, or several at once
//! $saga show                                         # what became of each, and totals that never change
//! ```
//!
//! `runner.rs` is the part to take along: about a hundred lines, which know nothing of trips. `trip.rs` has the steps.

mod runner;
mod trip;

use corelane::Error;
use corelane::blocking::{Db, connect};
use std::process::ExitCode;

const USAGE: &str = "saga HOST:PORT[,HOST:PORT…] setup | book ID=TRAVELLER,CITY,PRICE… | run | show";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        [at, "setup"] => open(at).and_then(|db| trip::set_up(&db)),
        [at, "book", ref trips @ ..] if !trips.is_empty() => open(at).and_then(|db| book(&db, trips)),
        [at, "run"] => open(at).and_then(|db| run(&db)),
        [at, "show"] => open(at).and_then(|db| show(&db)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn open(addresses: &str) -> Result<Db, Error> {
    connect(&format!("corelane://{addresses}"))
}

fn book(db: &Db, trips: &[&str]) -> Result<(), Error> {
    for trip in trips {
        let (id, input) = trip.split_once('=').unwrap_or((trip, ""));
        runner::begin(db, id, input)?;
    }
    Ok(())
}

fn run(db: &Db) -> Result<(), Error> {
    runner::run(db, &trip::STEPS, |saga| {
        println!("{}: {}", saga.id, saga.state(&trip::STEPS));
    })
}

fn show(db: &Db) -> Result<(), Error> {
    for saga in runner::all(db)? {
        println!("{}: {}, {}", saga.id, saga.input, saga.state(&trip::STEPS));
    }
    let [money, seats, rooms] = trip::totals(db)?;
    println!("totals: money {money}, seats {seats}, rooms {rooms}");
    Ok(())
}
