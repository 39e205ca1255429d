//! A connection for the commands: the client library on a runtime of this thread.

use crate::args::Global;
use crate::error::{CliError, Exit};
use std::future::Future;
use tokio::runtime::{Builder, Runtime};
use wire::Code;

/// A client handle and the runtime that drives it.
pub(crate) struct Session {
    runtime: Runtime,
    pub(crate) db: corelane::Db,
    /// Where it leads, for messages.
    pub(crate) address: String,
}

impl Session {
    /// Connects to the node that the command line names.
    pub(crate) fn open(global: &Global) -> Result<Self, CliError> {
        Self::open_with(global, options(global))
    }

    /// The same for a single request: the range map would be larger than the answer.
    pub(crate) fn open_for_one(global: &Global) -> Result<Self, CliError> {
        let options = corelane::Options {
            map_at_connect: false,
            ..options(global)
        };
        Self::open_with(global, options)
    }

    fn open_with(global: &Global, options: corelane::Options) -> Result<Self, CliError> {
        let runtime = runtime()?;
        let db = runtime.block_on(connect(options, &global.connect))?;
        Ok(Self {
            runtime,
            db,
            address: global.connect.clone(),
        })
    }

    /// Runs one or more calls to their end.
    pub(crate) fn wait<T>(
        &self,
        call: impl Future<Output = Result<T, corelane::Error>>,
    ) -> Result<T, CliError> {
        self.runtime
            .block_on(call)
            .map_err(|error| explain(error, &self.address))
    }

    /// Runs what reports its own errors.
    pub(crate) fn run<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        self.runtime.block_on(work)
    }
}

/// A runtime on this thread.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            CliError::new(Code::Internal.number(), Exit::Io, "cannot start").cause(error.to_string())
        })
}

/// The client's options that the command line asks for.
pub(crate) fn options(global: &Global) -> corelane::Options {
    corelane::Options {
        app: "corelane".to_owned(),
        deadline: global.timeout,
        ..corelane::Options::default()
    }
}

/// Connects to `address`.
async fn connect(options: corelane::Options, address: &str) -> Result<corelane::Db, CliError> {
    corelane::connect_with(address, options)
        .await
        .map_err(|error| explain(error, address))
}

/// What an error of the client means to the person at the command line.
#[expect(
    clippy::needless_pass_by_value,
    reason = "an error that is explained is used up; callers pass it to map_err"
)]
pub(crate) fn explain(error: corelane::Error, address: &str) -> CliError {
    let code = error.code();
    let exit = exit_of(code);
    let text = error.to_string();
    let said = |what: &str| CliError::new(code.number(), exit, what).cause(text.clone());
    match code {
        Code::Unavailable => said(&format!("no node answers at {address}"))
            .help("start one with `corelane start`, or name others with --connect HOST:PORT,HOST:PORT"),
        Code::DeadlineExceeded => {
            said("the node did not answer in time").help("try again, or allow more with --timeout 30s")
        }
        Code::Ambiguous => {
            said("the write may or may not have happened").help("read the key to find out, then decide")
        }
        _ => CliError::new(code.number(), exit, text).help(code.help()),
    }
}

/// The exit code that goes with an error code.
pub(crate) fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidRequest
        | Code::KeyTooLong
        | Code::ValueTooLong
        | Code::BatchTooLarge
        | Code::EmptyKey
        | Code::InvalidSpan
        | Code::BatchSpansRanges
        | Code::NoSuchRange
        | Code::NoSuchShard
        | Code::InvalidAddress
        | Code::TimestampTooOld
        | Code::TimestampAhead
        | Code::TxnOver => Exit::Usage,
        Code::ConditionFailed
        | Code::NotANumber
        | Code::SequenceReused
        | Code::TxnConflict
        | Code::TxnAborted => Exit::Conflict,
        Code::Unavailable | Code::DiskFailed | Code::DiskFull | Code::TooManyConnections => Exit::Unavailable,
        Code::Overloaded
        | Code::DeadlineExceeded
        | Code::WrongShard
        | Code::NotLeader
        | Code::RangeBusy
        | Code::VersionInactive
        | Code::ScanLost
        | Code::ShuttingDown => Exit::Retry,
        Code::Corruption | Code::FormatUnknown => Exit::Data,
        Code::Ambiguous
        | Code::CommitUnknown
        | Code::BadFrame
        | Code::BadMessage
        | Code::VersionUnsupported
        | Code::HelloExpected
        | Code::UnexpectedReply
        | Code::ConnectionTimedOut
        | Code::Internal => Exit::Unknown,
        Code::IoUringForbidden
        | Code::MemlockTooLow
        | Code::AddressInUse
        | Code::DataDirectoryInUse
        | Code::DataDirectoryUnwritable
        | Code::ConfigurationInvalid
        | Code::NodeRemoved
        | Code::DirectoryReplaced
        | Code::BuildTooOld => Exit::Config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_code_exit_and_remedy() {
        let gone = corelane::Error::Unavailable {
            address: "x:1".into(),
            cause: "connection refused".into(),
        };
        let told = explain(gone, "x:1");
        assert_eq!((told.code, told.exit), (3005, Exit::Unavailable));
        assert_eq!(told.what, "no node answers at x:1");
        assert!(told.cause.unwrap().contains("connection refused"));
        let empty = explain(corelane::Error::EmptyKey, "x:1");
        assert_eq!((empty.code, empty.exit), (1005, Exit::Usage));
    }
}
