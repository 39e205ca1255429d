//! Clocks of single processes, by the library libfaketime where the machine has it.
//!
//! The library stands between a process and the clock of the machine, and adds what a file says. The file is read at every look at
//! the clock, so the clock jumps while the process runs. Time that only goes on (`CLOCK_MONOTONIC`) is left alone.

use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where distributions put it. The one for programs with threads.
const PLACES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];
/// How far the clock may be from what was asked for when another program looks.
const LOOK_MS_MAX: i64 = 40;
/// How often another program looks, at most: the machine may be busy.
const LOOKS_MAX: usize = 50;

/// The library.
#[derive(Debug, Clone)]
pub struct FakeTime {
    library: PathBuf,
}

impl FakeTime {
    /// The library, if the machine has it.
    #[must_use]
    pub fn find() -> Option<Self> {
        let mut places = PLACES.iter().map(PathBuf::from);
        let library = places.find(|place| place.exists())?;
        Some(Self { library })
    }

    /// Has `command` run with the clock that `file` says.
    pub fn wrap(&self, command: &mut Command, file: &Path) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_NO_CACHE", "1")
            // The times of files are the machine's.
            .env("NO_FAKE_STAT", "1");
    }

    /// Sets the clock of all that read `file`, and makes sure that another program sees it so.
    ///
    /// # Errors
    /// The file cannot be written, or the library does not do what it should.
    pub fn set(&self, file: &Path, offset_ms: i64) -> anyhow::Result<()> {
        let sign = if offset_ms < 0 { '-' } else { '+' };
        let (seconds, rest) = (offset_ms.abs() / 1000, offset_ms.abs() % 1000);
        // Never half of it.
        let new = file.with_extension("new");
        std::fs::write(&new, format!("{sign}{seconds}.{rest:03}\n"))?;
        std::fs::rename(&new, file)?;
        let mut seen = Vec::new();
        for _ in 0..LOOKS_MAX {
            let off = self.look(file)?;
            if (off - offset_ms).abs() <= LOOK_MS_MAX {
                return Ok(());
            }
            seen.push(off);
        }
        anyhow::bail!("clocks were to be off by {offset_ms} ms, and are by {seen:?}")
    }

    /// By how much a program's clock is off: it looked halfway between two looks of our own.
    fn look(&self, file: &Path) -> anyhow::Result<i64> {
        let own = || -> anyhow::Result<i64> {
            let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
            Ok(i64::try_from(since.as_millis())?)
        };
        let mut date = Command::new("date");
        self.wrap(date.arg("+%s%N").stdin(Stdio::null()), file);
        let before = own()?;
        let output = date.output().context("cannot run date")?;
        let after = own()?;
        ensure!(output.status.success(), "date failed");
        let text = String::from_utf8(output.stdout)?;
        let shown: i64 = text.trim().parse().context("date says no number")?;
        Ok(shown / 1_000_000 - before.midpoint(after))
    }
}
