//! Everything that a demonstration consists of, and how it is set up and taken down.

use crate::command::demo::DemoArgs;
use crate::command::demo::bank::{self, Wrong};
use crate::command::demo::ledger::Ledger;
use crate::command::demo::live::Live;
use crate::command::demo::nodes::{Node, Nodes, RESERVE_BYTES, State};
use crate::command::demo::relay::Relays;
use crate::command::demo::view::{BankView, NodeView, bank_line, bank_lines, nodes_text};
use crate::command::demo::watch::{self, Seen};
use crate::error::{CliError, Exit, colour_wanted};
use base::NodeId;
use base::collections::FastMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use wire::Code;

/// Where node 1 listens when that is free, and how far the others are from each other.
const PORT_BASE: u16 = 7400;
const PORT_STEP: u16 = 100;
/// Held by the demonstration that has the usual ports: of two that start at once only one finds them free.
const CLAIM_PORT: u16 = PORT_BASE - 1;
/// How long the bank may take to open, or to go on.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long the last audit may take.
const LAST_AUDIT_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The bank's thread: whether the accounts were read after the last transfer.
pub(crate) type Business = JoinHandle<bool>;

/// Everything that a demonstration consists of.
pub(crate) struct Stage {
    pub(crate) nodes: Nodes,
    pub(crate) relays: Relays,
    pub(crate) live: Live,
    /// Where clients reach the nodes.
    pub(crate) url: String,
    pub(crate) accounts: u64,
    /// The data of the nodes.
    pub(crate) data: PathBuf,
    /// It is removed at the end.
    is_temporary: bool,
    ledger: Mutex<Ledger>,
    seen: Mutex<FastMap<NodeId, Seen>>,
    /// The bank does business.
    open: AtomicBool,
    _claim: Option<TcpListener>,
}

impl Stage {
    /// Finds ports, makes the directory and the network; no node runs yet.
    ///
    /// # Errors
    /// Ports are taken, or the directory cannot be made.
    pub(crate) fn set(args: &DemoArgs) -> Result<Self, CliError> {
        let claim = TcpListener::bind((Ipv4Addr::LOCALHOST, CLAIM_PORT)).ok();
        let addresses = addresses(args, claim.is_some())?;
        let relays = Relays::open(&addresses).map_err(|error| {
            CliError::new(Code::Internal.number(), Exit::Io, "no network between the nodes")
                .cause(error.to_string())
        })?;
        let data = match &args.data {
            Some(data) => data.clone(),
            None => std::env::temp_dir().join(format!("corelane-demo-{}", std::process::id())),
        };
        let made = if args.data.is_some() {
            std::fs::create_dir_all(&data)
        } else {
            std::fs::create_dir(&data)
        };
        made.map_err(|error| CliError::file("cannot make the data directory", &data, &error))?;
        let nodes = addresses
            .iter()
            .map(|&(id, address)| {
                let arguments = arguments(args, &data, id, &addresses, &relays);
                Node::new(id, address, &data, arguments)
            })
            .collect();
        let list: Vec<_> = addresses.iter().map(|(_, address)| address.to_string()).collect();
        Ok(Self {
            nodes: Nodes::new(nodes),
            relays,
            live: Live::default(),
            url: format!("corelane://{}", list.join(",")),
            accounts: args.accounts,
            data,
            is_temporary: args.data.is_none() && !args.keep,
            ledger: Mutex::new(bank::book(args.accounts)),
            seen: Mutex::default(),
            open: AtomicBool::new(true),
            _claim: claim,
        })
    }

    /// Opens the bank on a thread of its own; `verbose` says each second on standard error how it is.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn open_bank(self: &Arc<Self>, verbose: bool) -> Result<Business, CliError> {
        let failed = |error: std::io::Error| {
            CliError::new(Code::Internal.number(), Exit::Io, "the bank cannot open").cause(error.to_string())
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let stage = self.clone();
        let work = move || {
            let business = runtime.block_on(do_business(&stage, verbose));
            business.unwrap_or_else(|wrong| stage.raise_alarm(&wrong))
        };
        std::thread::Builder::new()
            .name("bank".into())
            .spawn(work)
            .map_err(failed)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the bank does business.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// A node was asked how it is; `None`: it did not say.
    pub(crate) fn saw(&self, id: NodeId, said: Option<Seen>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
            Some(said) => drop(seen.insert(id, said)),
            None => drop(seen.remove(&id)),
        }
    }

    /// Does what `line` asks for, and writes the fault down.
    pub(crate) fn fault(
        &self,
        line: &str,
        make: impl FnOnce() -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let began = Instant::now();
        self.ledger().on_fault(line, began);
        make().inspect_err(|_| self.ledger().retract_fault())
    }

    /// Undoes every fault.
    pub(crate) fn heal(&self) -> Result<(), CliError> {
        self.relays.heal();
        self.nodes.heal_disks()?;
        self.nodes.resume_all();
        self.nodes.start_down()
    }

    /// Waits until a transfer has succeeded that began after `from`.
    pub(crate) fn wait_for_transfer(&self, from: Instant) -> Result<(), CliError> {
        let began = Instant::now();
        while self.ledger().begun < Some(from) {
            if began.elapsed() > WAIT_MAX {
                let error = self.ledger().error.clone();
                let failed = CliError::new(
                    Code::DeadlineExceeded.number(),
                    Exit::Retry,
                    format!("no transfer has succeeded within {} s", WAIT_MAX.as_secs()),
                );
                let failed = failed.help("a majority of the nodes must run and hear each other: `heal`");
                return Err(match error {
                    Some(error) => failed.cause(error),
                    None => failed,
                });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// The node that leads most ranges, as soon as one says that it leads any; `None` when that takes too long.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |view: &NodeView| view.seen.as_ref().map_or(0, |seen| seen.leads);
        let began = Instant::now();
        loop {
            let views = self.node_views();
            let leaders = views.iter().filter(|view| leads(view) > 0);
            let first = leaders.max_by_key(|view| leads(view));
            if first.is_some() || began.elapsed() > WAIT_MAX {
                return first.map(|view| view.id);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn node_views(&self) -> Vec<NodeView> {
        let states = self.nodes.states();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |(id, address, state)| NodeView {
            id,
            address,
            state,
            seen: seen.get(&id).filter(|_| state == State::Up).cloned(),
        };
        states.into_iter().map(view).collect()
    }

    pub(crate) fn bank_view(&self) -> BankView {
        let now = Instant::now();
        let mut ledger = self.ledger();
        BankView {
            expected: ledger.expected,
            audited: ledger.audited.map(|at| now.saturating_duration_since(at)),
            audits: ledger.audits,
            transfers: ledger.transfers,
            failed: ledger.failed,
            unknown: ledger.unknown,
            conflicts: ledger.conflicts,
            second: ledger.second,
            gap: ledger.gap(now),
            longest: ledger.longest(now),
            faults: ledger.faults(now).to_vec(),
            error: ledger.error.clone(),
        }
    }

    /// Closes the bank, ends the nodes, and removes what is temporary unless it `keeps` it. How the bank was at the end, and whether its accounts
    /// were read then.
    pub(crate) fn close(&self, business: Business, keeps: bool) -> (BankView, bool) {
        self.relays.heal();
        self.nodes.resume_all();
        // What comes after this is no gap.
        let BankView {
            gap, longest, faults, ..
        } = self.bank_view();
        self.open.store(false, Ordering::Relaxed);
        // The thread has said why when it panicked.
        let was_read = business.join().unwrap_or(false);
        let view = BankView {
            gap,
            longest,
            faults,
            ..self.bank_view()
        };
        self.take_down(keeps);
        (view, was_read)
    }

    fn take_down(&self, keeps: bool) {
        self.live.give_back();
        self.nodes.end_all();
        if keeps {
            eprintln!("the data stays in {}", self.data.display());
        } else if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.data)
        {
            eprintln!("the data was not removed: {}: {error}", self.data.display());
        }
    }

    /// Money is gone or has come from nowhere, or the bank is another one: says so, ends the nodes, keeps their data, and ends
    /// the process.
    fn raise_alarm(&self, wrong: &Wrong) -> ! {
        let data = self.data.display();
        let error = match wrong {
            Wrong::Total(what) => CliError::new(
                Code::Internal.number(),
                Exit::Data,
                "THE TOTAL OF THE BANK IS WRONG",
            )
            .cause(what.clone())
            .help(format!(
                "this is a bug: please keep the data in {data} and report it"
            )),
            Wrong::Accounts(count) => {
                CliError::usage(format!("the data in {data} has a bank of {count} accounts")).help(format!(
                    "go on with it by --accounts {count}, or name another directory"
                ))
            }
        };
        self.live.give_back();
        eprint!("\n{}", error.render(colour_wanted(&std::io::stderr())));
        self.nodes.end_all();
        std::process::exit(error.exit as i32)
    }
}

/// Runs the bank and the watch until the bank closes. Whether the accounts were read after the last transfer.
async fn do_business(stage: &Arc<Stage>, verbose: bool) -> Result<bool, Wrong> {
    for (kind, number) in [
        (SignalKind::interrupt(), 2),
        (SignalKind::terminate(), 15),
        (SignalKind::hangup(), 1),
    ] {
        tokio::spawn(end_on(stage.clone(), kind, number));
    }
    for (id, address, _) in stage.nodes.states() {
        tokio::spawn(watch::run(stage.clone(), id, address));
    }
    tokio::spawn(run_seconds(stage.clone(), verbose));
    let db = tokio::select! {
        db = bank::open(stage) => db?,
        () = closed(stage) => return Ok(false),
    };
    let tellers = tokio::spawn(bank::run_tellers(stage.clone(), db.clone()));
    bank::run_auditor(stage, &db).await?;
    // They have said why when they panicked.
    let _ = tellers.await;
    bank::audit(stage, &db, LAST_AUDIT_MAX).await
}

async fn closed(stage: &Stage) {
    while stage.is_open() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ends everything when a signal asks for it.
async fn end_on(stage: Arc<Stage>, kind: SignalKind, number: i32) {
    // Without it the signal ends this process at once, and the kernel ends the nodes.
    if let Ok(mut signals) = signal(kind) {
        signals.recv().await;
        stage.take_down(false);
        std::process::exit(128 + number);
    }
}

/// Closes the books of each second, and shows how things are.
async fn run_seconds(stage: Arc<Stage>, verbose: bool) {
    while stage.is_open() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.ledger().on_second();
        let bank = stage.bank_view();
        if verbose {
            eprintln!("{}", bank_line(&bank));
        }
        let nodes = nodes_text(&stage.node_views(), &stage.relays.cuts());
        let [bank, now] = bank_lines(&bank);
        stage.live.paint(&format!("{nodes}\n{bank}\n      {now}"));
    }
}

/// Where the nodes listen: as asked for, else at the usual ports when they are `claimed` and free, else at free ones.
fn addresses(args: &DemoArgs, claimed: bool) -> Result<Vec<(NodeId, SocketAddr)>, CliError> {
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let base = args.port_base.unwrap_or(PORT_BASE);
    let mut found = Vec::new();
    let mut held = Vec::new();
    let usual = args.port_base.is_some() || claimed;
    for number in (0..args.nodes).take_while(|_| usual) {
        let offset = u16::try_from(number)
            .unwrap_or(u16::MAX)
            .saturating_mul(PORT_STEP);
        let wanted = base.checked_add(offset).map(local);
        let listener = wanted.map(TcpListener::bind);
        match (wanted, listener, args.port_base) {
            (Some(address), Some(Ok(listener)), _) if address.port() > 0 => {
                found.push((NodeId(number + 1), address));
                held.push(listener);
            }
            (_, _, None) => break,
            (_, _, Some(port)) => {
                return Err(CliError::new(
                    Code::AddressInUse.number(),
                    Exit::Config,
                    format!("node {} cannot listen {offset} ports above {port}", number + 1),
                )
                .help("choose another --port-base, or leave it out: then free ports are found"));
            }
        }
    }
    if held.len() as u64 == args.nodes {
        return Ok(found);
    }
    let none = |error: std::io::Error| {
        CliError::new(Code::AddressInUse.number(), Exit::Config, "no port is free").cause(error.to_string())
    };
    (1..=args.nodes)
        .map(|id| {
            let listener = TcpListener::bind(local(0)).map_err(none)?;
            let address = listener.local_addr().map_err(none)?;
            // Held until all are found, so that no two are the same.
            held.push(listener);
            Ok((NodeId(id), address))
        })
        .collect()
}

/// The command line of a node.
fn arguments(
    args: &DemoArgs,
    data: &Path,
    id: NodeId,
    addresses: &[(NodeId, SocketAddr)],
    relays: &Relays,
) -> Vec<OsString> {
    let entry = |(node, address): &(NodeId, SocketAddr)| match relays.address(id, *node) {
        Some(relay) => format!("{}={address}@{relay}", node.0),
        None => format!("{}={address}", node.0),
    };
    let list: Vec<_> = addresses.iter().map(entry).collect();
    let words = [
        "start",
        "--json",
        "--no-pin",
        "--stall-max",
        "10s",
        "--retention",
        "60s",
        "--log-max",
        "64MiB",
        "--cluster-name",
        "demo",
        "--faults",
    ];
    let mut all: Vec<OsString> = words.map(OsString::from).into();
    let mut option = |name: &str, value: OsString| all.extend([name.into(), value]);
    option("--node", id.0.to_string().into());
    option("--cluster", list.join(",").into());
    option("--disk-reserve", RESERVE_BYTES.to_string().into());
    option("--shards", args.shards.to_string().into());
    option("--data", data.join(format!("node-{}", id.0)).into());
    option("--parent", std::process::id().to_string().into());
    all
}
