//! A disk with a will of its own: draws latencies and faults, and says how the [`Store`](super::store) changes.
//!
//! Pure: `submit` gives a ticket and a delay, `complete` the outcome; in between a crash may strike.

use super::content::{Block, block_at};
use super::medium::Drawn;
use super::request::{Outcome, Request};
use super::rule::{DiskRule, strike};
use super::spoiled::Spoiled;
use super::store::{Fate, InodeId, NameChange, OpId, Step, Store};
use super::trace::DiskTrace;
use crate::config::{DiskConfig, fires, within};
use crate::trace::{Fault, Mark, Trace};
use base::Prng;
use base::limits::BLOCK_BYTES;
use env::DiskError;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;

/// Overwritten blocks that are remembered for stale reads.
pub(super) const STALE_WRITES_MAX: usize = 32;

#[derive(Debug)]
struct InFlight {
    path: Arc<str>,
    request: Request,
    op: OpId,
    /// Decided when it was submitted.
    failure: Option<ErrorKind>,
}

/// One node's disk.
#[derive(Debug)]
pub(crate) struct Device {
    pub(super) store: Store,
    pub(super) config: DiskConfig,
    pub(super) prng: Prng,
    rules: Vec<DiskRule>,
    spoiled: Spoiled,
    recorded: Option<DiskTrace>,
    in_flight: BTreeMap<u64, InFlight>,
    ticket_next: u64,
    /// Where a write went and what had been there, oldest first.
    pub(super) overwritten: VecDeque<(InodeId, usize, Vec<Block>)>,
}

impl Device {
    pub(crate) fn new(config: DiskConfig, prng: Prng) -> Self {
        Self {
            store: Store::open(&super::DiskImage::new()),
            config,
            prng,
            rules: Vec::new(),
            spoiled: Spoiled::default(),
            recorded: None,
            in_flight: BTreeMap::new(),
            ticket_next: 0,
            overwritten: VecDeque::new(),
        }
    }

    pub(crate) fn config_set(&mut self, config: DiskConfig) {
        self.config = config;
    }

    pub(crate) fn config(&self) -> &DiskConfig {
        &self.config
    }

    pub(crate) fn rule(&mut self, rule: DiskRule) {
        self.rules.push(rule);
    }

    pub(crate) fn rules_clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn image(&self) -> super::DiskImage {
        self.store.image_seen()
    }

    /// Every file by name, with its length on the medium.
    pub(crate) fn files(&self) -> Vec<(String, u64)> {
        self.store.files_by_name()
    }

    /// What the medium holds of a file.
    pub(crate) fn file_bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.store.durable_bytes(path)
    }

    /// Turns one bit of a file around, for good. Whether there is such a bit on the medium.
    pub(crate) fn flip(&mut self, path: &str, bit: u64, trace: &mut Trace) -> bool {
        let flipped = self.store.flip(path, bit);
        if flipped {
            trace.fault(Fault::BitFlip);
        }
        flipped
    }

    /// Reads of a block of a file fail from now on, until it is written again or the file goes.
    pub(crate) fn spoil(&mut self, path: &str, block: u64) {
        self.spoiled.add(path, block);
    }

    /// Replaces what the disk holds. Nothing may be open.
    pub(crate) fn image_set(&mut self, image: &super::DiskImage) {
        assert!(self.in_flight.is_empty(), "the disk is in use");
        self.store = Store::open(image);
        self.overwritten.clear();
    }

    pub(crate) fn record(&mut self) {
        self.recorded = Some(DiskTrace {
            start: self.store.clone(),
            steps: Vec::new(),
        });
    }

    pub(crate) fn recorded(&mut self) -> Option<DiskTrace> {
        self.recorded.take()
    }

    pub(crate) fn mark(&mut self, mark: u64) {
        self.step(Step::Mark(mark));
    }

    pub(crate) fn close(&mut self, inode: InodeId) {
        self.step(Step::Closed(inode));
    }

    fn step(&mut self, step: Step) {
        self.store.step(&step);
        if let Some(trace) = &mut self.recorded {
            trace.steps.push(step);
        }
    }

    /// Takes a request in. It completes after the delay that is returned with its ticket.
    pub(crate) fn submit(&mut self, path: Arc<str>, request: Request, trace: &mut Trace) -> (u64, u64) {
        let failure = self.decide_failure(&path, &request, trace);
        if failure.is_none() {
            self.spoiled.on_request(&path, &request);
        }
        let op = self.store.op_next();
        self.begin(op, &path, &request, failure);
        let delay_ns = self.draw_delay(&request, trace);
        let ticket = self.ticket_next;
        self.ticket_next += 1;
        trace.fold(Mark::DiskSubmit, request.fingerprint(), delay_ns);
        self.in_flight.insert(
            ticket,
            InFlight {
                path,
                request,
                op,
                failure,
            },
        );
        (ticket, delay_ns)
    }

    fn decide_failure(&mut self, path: &str, request: &Request, trace: &mut Trace) -> Option<ErrorKind> {
        if let Some(kind) = strike(&mut self.rules, request.op(), path) {
            trace.fault(Fault::DiskRule);
            return Some(kind);
        }
        let (chance, fault) = match request {
            Request::Names(change) => return self.store.refusal(change),
            Request::Create => {
                return self.store.refusal(&NameChange::Create {
                    path: Arc::from(path),
                });
            }
            Request::Write {
                inode,
                offset,
                blocks,
                ..
            } => {
                if self.is_full(*inode, *offset, blocks.len()) {
                    trace.fault(Fault::DiskFull);
                    return Some(ErrorKind::StorageFull);
                }
                (self.config.write_error, Fault::DiskWriteError)
            }
            Request::Read { offset, len, .. } if self.spoiled.covers(path, *offset, *len) => {
                trace.fault(Fault::DiskReadError);
                return Some(ErrorKind::Other);
            }
            Request::Read { .. } => (self.config.read_error, Fault::DiskReadError),
            Request::Sync { .. } | Request::SyncDir => (self.config.sync_error, Fault::DiskSyncError),
            Request::Open
            | Request::CreateDir
            | Request::List
            | Request::Space
            | Request::Len { .. }
            | Request::SetLen { .. } => return None,
        };
        fires(&mut self.prng, chance).then(|| {
            trace.fault(fault);
            ErrorKind::Other
        })
    }

    pub(crate) fn bytes_used(&self) -> u64 {
        self.store.bytes_used()
    }

    fn is_full(&self, inode: InodeId, offset: u64, blocks: usize) -> bool {
        let Some(capacity_bytes) = self.config.capacity_bytes else {
            return false;
        };
        let end = offset + (blocks * BLOCK_BYTES) as u64;
        let growth = end.saturating_sub(self.store.content(inode).len());
        growth > 0 && self.store.bytes_used() + growth > capacity_bytes
    }

    /// What a request changes at once: a crash may find it done before it completes.
    fn begin(&mut self, op: OpId, path: &Arc<str>, request: &Request, failure: Option<ErrorKind>) {
        let path = path.clone();
        let step = match (request, failure) {
            (
                Request::Write {
                    inode,
                    offset,
                    blocks,
                    durable,
                    ..
                },
                _,
            ) => {
                let (inode, first, blocks) = (*inode, block_at(*offset), blocks.clone());
                Step::BeginWrite {
                    op,
                    inode,
                    first,
                    blocks,
                    durable: *durable,
                }
            }
            (Request::Sync { inode }, _) => Step::BeginSync { op, inode: *inode },
            (Request::SyncDir, _) => Step::BeginSyncDir { op, path },
            (Request::Names(change), None) => Step::Names {
                op,
                change: change.clone(),
            },
            (Request::Create, None) => Step::Names {
                op,
                change: NameChange::Create { path },
            },
            (Request::SetLen { inode, len }, None) => Step::SetLen {
                op,
                inode: *inode,
                blocks: block_at(*len),
            },
            (Request::CreateDir, None) => Step::CreateDir { path },
            (
                Request::Open
                | Request::List
                | Request::Space
                | Request::Read { .. }
                | Request::Len { .. }
                | Request::Names(_)
                | Request::Create
                | Request::SetLen { .. }
                | Request::CreateDir,
                _,
            ) => return,
        };
        self.step(step);
    }

    fn draw_delay(&mut self, request: &Request, trace: &mut Trace) -> u64 {
        let write_ns = within(&mut self.prng, &self.config.write_ns);
        let usual_ns = match request {
            Request::Write { durable: false, .. } | Request::SetLen { .. } => write_ns / 4,
            Request::Write { durable: true, .. } => write_ns,
            Request::Sync { .. } | Request::SyncDir | Request::CreateDir => write_ns + write_ns / 2,
            Request::Open | Request::Create | Request::Names(_) | Request::List | Request::Read { .. } => {
                within(&mut self.prng, &self.config.read_ns)
            }
            Request::Space | Request::Len { .. } => 1_000,
        };
        if !fires(&mut self.prng, self.config.slow) {
            return usual_ns;
        }
        trace.fault(Fault::DiskSlow);
        usual_ns + self.prng.below(self.config.slow_ns.max(1))
    }

    /// Carries a request out.
    pub(crate) fn complete(&mut self, ticket: u64, trace: &mut Trace) -> Result<Outcome, DiskError> {
        let InFlight {
            path,
            request,
            op,
            failure,
        } = self.in_flight.remove(&ticket).expect("a ticket is used once");
        let outcome = self.finish(op, &path, &request, failure, trace);
        trace.fold(Mark::DiskComplete, ticket, u64::from(outcome.is_ok()));
        outcome.map_err(|kind| DiskError {
            op: request.op(),
            path: path.to_string(),
            offset: request.offset(),
            kind,
        })
    }

    fn finish(
        &mut self,
        op: OpId,
        path: &str,
        request: &Request,
        failure: Option<ErrorKind>,
        trace: &mut Trace,
    ) -> Result<Outcome, ErrorKind> {
        match request {
            Request::Write {
                inode,
                offset,
                blocks,
                ..
            } => {
                let landed = self.draw_landing(*inode, block_at(*offset), blocks, failure, trace);
                self.step(Step::EndWrite { op, landed });
            }
            Request::Sync { .. } | Request::SyncDir => self.step(Step::EndSync {
                op,
                is_ok: failure.is_none(),
            }),
            Request::Open
            | Request::Create
            | Request::Names(_)
            | Request::CreateDir
            | Request::List
            | Request::Space
            | Request::Read { .. }
            | Request::Len { .. }
            | Request::SetLen { .. } => {}
        }
        if let Some(kind) = failure {
            return Err(kind);
        }
        Ok(match request {
            Request::Open | Request::Create => {
                let inode = self.store.file(path)?;
                self.step(Step::Opened(inode));
                Outcome::File(inode)
            }
            Request::List => Outcome::Entries(self.store.list(path)?),
            Request::Space => {
                let used = self.store.bytes_used();
                Outcome::Number(self.config.capacity_bytes.unwrap_or(1 << 40).saturating_sub(used))
            }
            Request::Len { inode } => Outcome::Number(self.store.content(*inode).len()),
            Request::Read { inode, offset, len } => Outcome::Bytes(self.read(*inode, *offset, *len, trace)),
            Request::Write { .. }
            | Request::Sync { .. }
            | Request::SyncDir
            | Request::Names(_)
            | Request::CreateDir
            | Request::SetLen { .. } => Outcome::Done,
        })
    }

    /// The machine loses power: each unsettled change is kept, lost or torn.
    pub(crate) fn crash(&mut self, trace: &mut Trace) {
        let fates: Vec<_> = (0..self.store.unsettled().len())
            .map(|index| self.draw_fate(index, trace))
            .collect();
        let image = self.store.image(|index, _| match &fates[index] {
            Drawn::Lost => Fate::Lost,
            Drawn::Kept => Fate::Kept,
            Drawn::Torn(sectors) => Fate::Torn(sectors),
        });
        self.store = Store::open(&image);
        self.in_flight.clear();
        self.overwritten.clear();
        self.recorded = None;
    }

    /// The program ends and the machine goes on: what is in flight is seen from now on, nobody hears of it, and nothing is
    /// durable that was not. A crash may still undo it, until another program syncs it.
    pub(crate) fn process_ended(&mut self, trace: &mut Trace) {
        self.in_flight.clear();
        self.store.process_ended();
        self.recorded = None;
        if !self.store.unsettled().is_empty() {
            trace.fault(Fault::KillUnsettled);
        }
    }
}
