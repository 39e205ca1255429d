//! Error codes: stable numbers, shared by server, client and the command `explain`.
//!
//! | numbers | area |
//! |---|---|
//! | C1xxx | the request or its arguments |
//! | C2xxx | conflicts and conditions |
//! | C3xxx | overload, deadlines, routing |
//! | C4xxx | storage and corruption |
//! | C5xxx | the protocol |
//! | C6xxx | starting and stopping |

use core::fmt;

macro_rules! codes {
    ($($name:ident = $number:literal, $short:literal, $help:literal;)*) => {
        /// A stable error code. The numbers are frozen; new ones are added, none is reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $short] $name = $number,)*
        }

        impl Code {
            /// Every code, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// What happened, in a few words.
            #[must_use]
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$name => $short,)*
                }
            }

            /// What it means and what to do.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$name => $help,)*
                }
            }
        }
    };
}

codes! {
    InvalidRequest = 1001, "invalid request",
        "An argument is outside what the request allows; the message names it. Correct the call.";
    KeyTooLong = 1002, "key too long",
        "A key may have 16 KiB. Use a shorter key, for example a hash of the long part, and keep the long part in the value.";
    ValueTooLong = 1003, "value too long",
        "A value may have 16 MiB. Split it over several keys.";
    BatchTooLarge = 1004, "batch too large",
        "An atomic batch may have 64 MiB of keys and values and 1,048,576 operations. Write several batches.";
    EmptyKey = 1005, "empty key",
        "A key needs at least one byte. The empty key only marks the start of the key space.";
    InvalidSpan = 1006, "invalid span",
        "The end of a span lies before its start. Swap them; for a reverse scan the start still is the smaller key.";
    BatchSpansRanges = 1007, "batch touches several ranges",
        "A batch is atomic within one range. Keep the keys that belong together under one prefix, or write several batches.";
    NoSuchRange = 1008, "no such range",
        "The range does not exist (any more). List the ranges with `corelane range ls`.";
    NoSuchShard = 1009, "no such shard",
        "The node has fewer shards. `corelane status` says how many.";
    InvalidAddress = 1010, "invalid address",
        "An address reads corelane://HOST:PORT, for example corelane://127.0.0.1:7400; several nodes of a cluster corelane://HOST:PORT,HOST:PORT.";

    ConditionFailed = 2001, "condition failed",
        "A key did not have the expected value; nothing was written. Read it again and decide anew.";
    SequenceReused = 2002, "write number reused",
        "A write arrived with a number whose result is already forgotten. Each write of a session needs a number of its own, and a session may have 1,024 writes unanswered.";
    TimestampTooOld = 2003, "timestamp too old",
        "Versions that old may have been collected. Read at a newer timestamp.";
    TimestampAhead = 2004, "timestamp in the future",
        "The timestamp is further ahead of the node's clock than the bound allows. Check the clocks of both machines.";
    NotANumber = 2005, "value is not a number",
        "Additions, minima and maxima need a value that is decimal text of 64 bits, such as 42 or -7, or none at all. Put a number there first.";

    TxnConflict = 2104, "transaction conflict",
        "Another transaction has an unfinished write on a key, or wrote it first; the message names both. Transactions that are retried (`Db::transaction`) run again by themselves; retry others.";
    TxnAborted = 2105, "transaction aborted",
        "The transaction was aborted by another one, or its reads are not valid any more where it has to commit; nothing of it is visible. Run it again; `Db::transaction` does so by itself. Transactions that read and write the same keys fail less with `get_for_update`.";
    CommitUnknown = 2106, "commit unknown",
        "A commit was sent and its answer never came: the transaction is committed or will never be. Ask later with `Db::outcome` and the transaction of the error; do not run it again before.";
    TxnOver = 2107, "transaction is over",
        "The transaction was committed or rolled back before this call. Begin another one.";

    Overloaded = 3001, "overloaded",
        "A queue or budget of the server is full; the message says which. Wait and retry, with fewer requests at once.";
    DeadlineExceeded = 3002, "deadline exceeded",
        "The request was not finished in time and, if it was a write, was not applied. Retry, or allow more time.";
    Ambiguous = 3003, "outcome unknown",
        "The write was sent, and the connection ended or time ran out before its answer came: it may have been applied. Read the key to find out.";
    WrongShard = 3004, "range has moved",
        "The range is served by another shard. Clients look at the range map and retry; seen by people only when that did not end.";
    Unavailable = 3005, "unavailable",
        "No connection to the node. Check that it runs (`corelane status`) and that the address is right.";
    RangeBusy = 3006, "range is busy",
        "The range is being split or moved just now. Retry in a moment.";
    ScanLost = 3007, "scan lost",
        "The connection ended in the middle of a scan and it could not be resumed. Start it again.";
    NotLeader = 3008, "not the leader",
        "Another node leads the range; the message says which and where. Clients go there and retry; seen by people only when that did not end.";

    VersionInactive = 3009, "not before all nodes are upgraded",
        "It takes a later version of the protocol between nodes than is active. Upgrade the nodes that run an older build (`corelane status` says what each speaks), or remove those that are gone (`corelane node rm`): the version then rises by itself.";

    Corruption = 4001, "corruption",
        "Bytes on disk do not match their checksum; the message names the file and offset. Nothing damaged is served. A range with replicas on other nodes repairs itself; for others run `corelane check DIR`, then restore from a copy.";
    DiskFailed = 4002, "disk failed",
        "A write or sync failed; the node stops, because what it did is unknown. Check the device, then start again: acknowledged writes are recovered.";
    DiskFull = 4003, "disk full",
        "No space is left for the data directory, or less than `corelane start --disk-reserve` keeps free: puts are refused early, reads and deletes go on. Free some space, delete keys, or add a node; puts are taken again by themselves when there is room.";
    FormatUnknown = 4004, "unknown format",
        "A file was written by a newer version of corelane. Use that version.";

    BadFrame = 5001, "bad frame",
        "The peer sent bytes that are not a frame of this protocol; the connection was closed. Does something else listen on that port?";
    BadMessage = 5002, "bad message",
        "A frame's payload is not the message that it claims to be; the connection was closed. This is a bug of the sender.";
    VersionUnsupported = 5003, "protocol version not supported",
        "Client and server share no protocol version. Update the older one.";
    HelloExpected = 5004, "hello expected",
        "The first frame of a connection must be a hello, and only the first.";
    TooManyConnections = 5005, "too many connections",
        "The server has as many connections as it accepts. Close some, or raise the limit.";
    UnexpectedReply = 5006, "unexpected reply",
        "The server answered with a message that does not fit the request. This is a bug of the server.";
    ConnectionTimedOut = 5007, "connection timed out",
        "The connection sent no hello, or only part of a frame, for too long; the server closed it.";

    IoUringForbidden = 6001, "io_uring is not available",
        "The kernel or its policy forbids io_uring. `corelane doctor` says which and how to allow it.";
    MemlockTooLow = 6002, "locked memory limit too low",
        "io_uring needs locked memory. Raise the limit: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the service.";
    AddressInUse = 6003, "address in use",
        "Another process listens on that port. Stop it or choose another with --listen.";
    DataDirectoryInUse = 6004, "data directory in use",
        "Another corelane process has this data directory. Stop it or choose another with --data.";
    DataDirectoryUnwritable = 6005, "data directory not writable",
        "The data directory cannot be written. Check its owner and the mount options.";
    ShuttingDown = 6006, "shutting down",
        "The node is stopping. Retry when it is back, or at another node.";
    ConfigurationInvalid = 6007, "invalid configuration",
        "A setting is outside its range; the message names it and the range.";
    NodeRemoved = 6008, "node was removed",
        "The node was removed from its cluster with `corelane node rm`, and its number is not used again. Start it with an empty data directory, another number, and --join.";
    DirectoryReplaced = 6009, "data directory was replaced",
        "The other nodes know the node with another data directory: what it promised them is lost with that. Start it with the directory that it had. If that is gone: `corelane node drain N`, `corelane node rm N`, and start a node with another number and --join.";
    BuildTooOld = 6010, "build too old for the cluster",
        "A later version of the protocol between nodes is active in the cluster, or in the data directory, than the build speaks. Start the node with a build that speaks it (the one that the other nodes run); its data is as it was. There is no way back to an older build.";
    Internal = 6999, "internal error",
        "The server met a state that it should not be in. Please report it with the message.";
}

impl Code {
    /// The number, without the letter.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{:04}", self.number())
    }
}

/// The text of `corelane explain`: accepts `C3001`, `c3001` and `3001`. `None` for a code that does not exist.
#[must_use]
pub fn explain(code: &str) -> Option<String> {
    let digits = code.strip_prefix(['C', 'c']).unwrap_or(code);
    let code = Code::from_number(digits.parse().ok()?)?;
    Some(format!("{code}: {}\n\n{}\n", code.summary(), code.help()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_ordered_unique_and_explained() {
        for pair in Code::ALL.windows(2) {
            assert!(
                pair[0].number() < pair[1].number(),
                "{} before {}",
                pair[0],
                pair[1]
            );
        }
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
            assert!(code.help().ends_with(['.', '?']), "{code}");
            assert_eq!(explain(&code.to_string()), explain(&code.number().to_string()));
        }
        assert_eq!(explain("C9999"), None);
        assert_eq!(explain("nonsense"), None);
        assert_eq!(
            explain("c3001").as_deref().and_then(|text| text.lines().next()),
            Some("C3001: overloaded")
        );
    }
}
