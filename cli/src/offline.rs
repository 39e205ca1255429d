//! Reading a data directory while no node runs on it: one shard's executor, for as long as one piece of work takes.

use crate::command::start_error;
use crate::error::{CliError, Exit};
use runtime::{GlommioEnv, RuntimeConfig};
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Runs `work` on the data directory `dir`, which no node may use meanwhile.
pub(crate) fn run<T, F, Fut>(dir: &Path, work: F) -> Result<T, CliError>
where
    T: Send + 'static,
    F: FnOnce(GlommioEnv) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, CliError>> + 'static,
{
    // Looking at a directory must not make one.
    if !dir.join("IDENTITY").is_file() {
        return Err(
            CliError::usage(format!("{} is no data directory of corelane", dir.display()))
                .help("name the directory that `corelane start --data` was given"),
        );
    }
    let _report = runtime::preflight(dir).map_err(|error| start_error::of_preflight(&error))?;
    let config = RuntimeConfig {
        shards: 1,
        pin: false,
        ..RuntimeConfig::new(dir)
    };
    let work = Arc::new(Mutex::new(Some(work)));
    let result: Arc<Mutex<Option<Result<T, CliError>>>> = Arc::default();
    let kept = result.clone();
    let ended = runtime::run_shards::<(), _, _, CliFailure>(&config, move |env, _| {
        let (work, kept) = (work.clone(), kept.clone());
        async move {
            let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(work) = work {
                let done = work(env).await;
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            }
            Ok(())
        }
    });
    ended.map_err(|error| start_error::of_runtime(&error))?;
    let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    done.unwrap_or_else(|| {
        Err(CliError::new(
            wire::Code::Internal.number(),
            Exit::Unknown,
            "the work ended without a result",
        ))
    })
}

/// The shard itself cannot fail: errors travel with the result.
#[derive(Debug)]
enum CliFailure {}

impl std::fmt::Display for CliFailure {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

/// Refuses a directory that no node has ever used.
fn require(dir: &Path) -> Result<(), CliError> {
    if dir.join("IDENTITY").is_file() {
        return Ok(());
    }
    Err(
        CliError::usage(format!("{} is no data directory of corelane", dir.display()))
            .help("name the directory that `corelane start --data` was given"),
    )
}

/// The shards that have a directory below `dir`, ascending.
pub(crate) fn shards(dir: &Path) -> Result<Vec<base::ShardId>, CliError> {
    require(dir)?;
    let unreadable = |error| CliError::file("cannot read the data directory", dir, &error);
    let mut shards = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("shard-"))
            .and_then(|number| number.parse().ok());
        shards.extend(number.map(base::ShardId));
    }
    shards.sort_unstable();
    Ok(shards)
}
