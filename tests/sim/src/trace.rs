//! What a run did, folded into one number, and which faults fired.

use std::collections::BTreeMap;

macro_rules! faults {
    ($($name:ident),* $(,)?) => {
        /// A fault that the simulator injects. Every one is counted when it fires, so that a run proves what it tested.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the fault models of the modules that fire them explain each")]
        pub enum Fault {
            $($name),*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

faults! {
    Crash,
    CrashWriteLost,
    CrashWriteTorn,
    CrashSectorGarbage,
    CrashNameUndone,
    Kill,
    KillUnsettled,
    Pause,
    TaskYield,
    ClockJump,
    ClockJumpPastBound,
    SleepLate,
    DiskSlow,
    DiskReadError,
    DiskWriteError,
    DiskSyncError,
    DiskFull,
    DiskRule,
    WriteLost,
    WriteMisdirected,
    ReadMisdirected,
    ReadStale,
    BitRot,
    BitFlip,
    NetCut,
    NetCutOneWay,
    NetConnectFailed,
    NetHalfOpen,
    NetLoss,
    NetReset,
    NetShortRead,
    NetShortWrite,
    NetDrip,
    NetSmallWindow,
    NetTimeout,
    MailboxDelay,
    MailboxFull,
    MailboxSpurious,
}

/// What kind of event is folded in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Poll = 1,
    Time,
    DiskSubmit,
    DiskComplete,
    NetSend,
    NetDeliver,
    NetOpen,
    Mailbox,
    Fault,
    Node,
}

/// A running hash of everything that happened, and the counts of faults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    faults: BTreeMap<Fault, u64>,
}

impl Trace {
    /// Folds one event in. Order counts.
    pub(crate) fn fold(&mut self, mark: Mark, a: u64, b: u64) {
        self.events += 1;
        let mut hash = self.hash ^ (mark as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        for word in [a, b] {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        self.hash = hash.rotate_left(23);
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.fold(Mark::Fault, fault as u64, 0);
        *self.faults.entry(fault).or_insert(0) += 1;
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn faults(&self) -> &BTreeMap<Fault, u64> {
        &self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_kind_values_and_order() {
        let hash = |events: &[(Mark, u64, u64)]| {
            let mut trace = Trace::default();
            for (mark, a, b) in events {
                trace.fold(*mark, *a, *b);
            }
            trace.hash()
        };
        let one = hash(&[(Mark::Poll, 1, 2), (Mark::Poll, 2, 1)]);
        assert_eq!(one, hash(&[(Mark::Poll, 1, 2), (Mark::Poll, 2, 1)]));
        assert_ne!(one, hash(&[(Mark::Poll, 2, 1), (Mark::Poll, 1, 2)]));
        assert_ne!(one, hash(&[(Mark::Poll, 1, 2), (Mark::Time, 2, 1)]));
        assert_ne!(one, hash(&[(Mark::Poll, 1, 2), (Mark::Poll, 2, 2)]));
    }
}
