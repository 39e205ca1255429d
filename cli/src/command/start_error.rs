//! Why a node cannot start, or stopped: a sentence, a code and a remedy for each reason.

use crate::error::{CliError, Exit};
use env::DiskError;
use log::LogError;
use node::identity::IdentityError;
use node::{
    BirthsError, IncarnationError, NodeError, PolicyError, RecoverError, RosterError, StandingError,
    WordsError,
};
use runtime::{PreflightError, RuntimeError};
use std::io::ErrorKind;
use storage::StorageError;
use wire::Code;

fn refused(code: Code, what: impl Into<String>) -> CliError {
    CliError::new(code.number(), Exit::Config, what).help(code.help())
}

/// The machine does not allow a node. The runtime's message is a sentence, then the remedy on lines of their own.
pub(crate) fn of_preflight(error: &PreflightError) -> CliError {
    let code = match error {
        PreflightError::IoUringForbidden { .. }
        | PreflightError::IoUringDisabled { .. }
        | PreflightError::IoUringMissing { .. }
        | PreflightError::IoUringTooOld { .. } => Code::IoUringForbidden,
        PreflightError::LockedMemory { .. } => Code::MemlockTooLow,
        PreflightError::DataDir { .. } | PreflightError::NotADirectory { .. } => {
            Code::DataDirectoryUnwritable
        }
        PreflightError::DataDirInUse { .. } => Code::DataDirectoryInUse,
        PreflightError::Full { .. } => Code::DiskFull,
    };
    let text = error.to_string();
    match text.split_once('\n') {
        Some((what, remedy)) => refused(code, what).help(remedy),
        None => refused(code, text),
    }
}

/// The shards could not run.
pub(crate) fn of_runtime(error: &RuntimeError) -> CliError {
    match error {
        RuntimeError::Config(what) => refused(Code::ConfigurationInvalid, what.clone()),
        RuntimeError::Start { .. } => {
            CliError::new(Code::Internal.number(), Exit::Config, "a shard cannot start")
                .cause(error.to_string())
                .help("`corelane doctor` examines this machine")
        }
        RuntimeError::Shard { .. } | RuntimeError::Panicked { .. } => {
            CliError::new(Code::Internal.number(), Exit::Unavailable, "the node stopped")
                .cause(error.to_string())
                .help(Code::Internal.help())
        }
    }
}

/// A shard did not start, or stopped.
pub(crate) fn of_node(error: &NodeError) -> CliError {
    match error {
        NodeError::Listen { address, error } if error.kind == ErrorKind::AddrInUse => refused(
            Code::AddressInUse,
            format!("another process listens at {address}"),
        )
        .help("stop it (`ss -ltnp` shows which it is), or choose another address with --listen HOST:PORT"),
        NodeError::Listen { address, error } => {
            refused(Code::ConfigurationInvalid, format!("cannot listen at {address}"))
                .cause(error.to_string())
                .help("choose an address of this machine with --listen HOST:PORT")
        }
        NodeError::Config(what) => refused(Code::ConfigurationInvalid, what.clone()),
        NodeError::Identity(error) => of_identity(error),
        NodeError::Incarnation(IncarnationError::Disk(error)) => of_disk(error),
        NodeError::Incarnation(error @ IncarnationError::Unknown { .. }) => damaged(error.to_string()),
        NodeError::Roster(RosterError::Disk(error))
        | NodeError::Words(
            WordsError::Standing(StandingError::Disk(error)) | WordsError::Policy(PolicyError::Disk(error)),
        ) => of_disk(error),
        NodeError::Words(WordsError::Standing(error @ StandingError::Unknown)) => damaged(error.to_string()),
        NodeError::Words(WordsError::Policy(error @ PolicyError::Unknown)) => damaged(error.to_string()),
        NodeError::Removed(node) => {
            refused(Code::NodeRemoved, format!("{node} was removed from the cluster"))
        }
        NodeError::Births(BirthsError::Disk(error)) => of_disk(error),
        NodeError::Births(error @ BirthsError::Unknown) => damaged(error.to_string()),
        NodeError::Replaced(node) => refused(
            Code::DirectoryReplaced,
            format!("the other nodes know {node} with another data directory"),
        ),
        NodeError::Outdated(_) => refused(
            Code::BuildTooOld,
            "the other nodes use a later version of the protocol between nodes than this build speaks",
        )
        .cause(error.to_string()),
        NodeError::Roster(error @ RosterError::Unknown) => damaged(error.to_string()),
        NodeError::Recover(error) => of_recover(error),
        NodeError::Map(error) => {
            refused(Code::Corruption, "the data directory is incomplete").cause(error.to_string())
        }
        NodeError::Failed(reason) => {
            CliError::new(Code::DiskFailed.number(), Exit::Unavailable, "the node stopped")
                .cause(reason.clone())
                .help(Code::DiskFailed.help())
        }
    }
}

pub(crate) fn of_identity(error: &IdentityError) -> CliError {
    match error {
        IdentityError::Disk(error) => of_disk(error),
        IdentityError::Corruption { .. } => damaged(error.to_string()),
        IdentityError::Other { .. } => refused(
            Code::ConfigurationInvalid,
            "the data directory belongs to another node or cluster",
        )
        .cause(error.to_string())
        .help(
            "choose the node's own directory with --data, or say who it is: --node, the numbers in the list of --cluster, \
             and --cluster-name",
        ),
        IdentityError::TooNew { .. } => refused(
            Code::BuildTooOld,
            "the data directory is of a newer build, and there is no way back",
        )
        .cause(error.to_string()),
        IdentityError::Unknown => refused(Code::FormatUnknown, "this is no data directory of this corelane")
            .cause(error.to_string())
            .help("choose another directory with --data, or the version of corelane that wrote it"),
    }
}

fn of_recover(error: &RecoverError) -> CliError {
    match error {
        RecoverError::Log(LogError::Disk(error))
        | RecoverError::Storage(StorageError::Disk(error))
        | RecoverError::Disk(error) => of_disk(error),
        RecoverError::Log(error @ LogError::Version { .. }) => {
            refused(Code::FormatUnknown, "the data is of a newer corelane").cause(error.to_string())
        }
        RecoverError::Stays { .. } => refused(
            Code::ConfigurationInvalid,
            "the number of shards cannot change now",
        )
        .cause(error.to_string()),
        RecoverError::State(_) | RecoverError::NotAlone { .. } | RecoverError::Members { .. } => {
            refused(Code::FormatUnknown, "the data is of another version of corelane")
                .cause(error.to_string())
                .help("choose another directory with --data, or the version of corelane that wrote it")
        }
        RecoverError::Log(LogError::Config(error)) => refused(Code::ConfigurationInvalid, error.to_string()),
        RecoverError::Log(LogError::Corruption(_) | LogError::Closed)
        | RecoverError::Storage(_)
        | RecoverError::Command { .. }
        | RecoverError::Gap { .. }
        | RecoverError::Chain { .. }
        | RecoverError::Spilled(_)
        | RecoverError::NoTablet { .. } => damaged(error.to_string()),
    }
}

fn damaged(cause: String) -> CliError {
    refused(Code::Corruption, "the data on disk is damaged; the node does not start, and changes nothing")
        .cause(cause)
        .help("copy the data directory away, then run `corelane check DIR`, which lists all damage by file and offset")
}

/// A file or directory of the node failed.
pub(crate) fn of_disk(error: &DiskError) -> CliError {
    let (code, what) = match error.kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            (Code::DiskFull, "no space is left for the data directory")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (
            Code::DataDirectoryUnwritable,
            "the data directory cannot be written",
        ),
        ErrorKind::ResourceBusy => {
            let what = "this process may not open as many files as the node has";
            return refused(Code::ConfigurationInvalid, what)
                .cause(error.to_string())
                .help("each range keeps one file open, and one for each of its tables");
        }
        _ => (Code::DiskFailed, "the disk failed"),
    };
    refused(code, what).cause(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use env::{DiskOp, NetError};
    use node::Version;

    fn disk(kind: ErrorKind) -> CliError {
        of_disk(&DiskError {
            op: DiskOp::Write,
            path: "shard-0/wal/1.seg".into(),
            offset: Some(4096),
            kind,
        })
    }

    #[test]
    fn each_reason_has_its_code_and_a_remedy() {
        let taken = NetError {
            what: "listen",
            kind: ErrorKind::AddrInUse,
        };
        let address = "127.0.0.1:7400".parse().unwrap();
        let errors = [
            (
                of_node(&NodeError::Listen {
                    address,
                    error: taken,
                }),
                Code::AddressInUse,
            ),
            (disk(ErrorKind::StorageFull), Code::DiskFull),
            (disk(ErrorKind::ResourceBusy), Code::ConfigurationInvalid),
            (disk(ErrorKind::ReadOnlyFilesystem), Code::DataDirectoryUnwritable),
            (disk(ErrorKind::Other), Code::DiskFailed),
            (
                of_node(&NodeError::Identity(IdentityError::Unknown)),
                Code::FormatUnknown,
            ),
            (
                of_node(&NodeError::Identity(IdentityError::TooNew {
                    active: Version(3),
                    speaks: Version(2),
                })),
                Code::BuildTooOld,
            ),
            (of_node(&NodeError::Outdated(Version(1))), Code::BuildTooOld),
            (
                of_runtime(&RuntimeError::Config("shards is 0".into())),
                Code::ConfigurationInvalid,
            ),
        ];
        for (error, code) in errors {
            assert_eq!(
                (error.code, error.exit),
                (code.number(), Exit::Config),
                "{error:?}"
            );
            assert!(error.help.is_some(), "{error:?}");
        }
        assert!(
            disk(ErrorKind::StorageFull)
                .cause
                .unwrap()
                .contains("at offset 4096")
        );
    }
}
