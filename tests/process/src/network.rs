//! The network between the nodes of a cluster: a namespace each, or relays.
//!
//! ```text
//!   clients, here ── bridge ──┬── node 1 ──┐           each pair of nodes has a bridge of its own besides:
//!                             ├── node 2 ──┼── pairs   a cut takes both ends off it, and frames go nowhere
//!                             └── node 3 ──┘
//! ```
//!
//! Clients reach every node over a bridge of their own, so a node that is cut from the others still hears them. Namespaces
//! are held by processes that end when their input does; so they go when this process goes, by whatever end.

use crate::relay::Relay;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The port of every node in a namespace.
const PORT: u16 = 7400;
/// How long making a namespace may take.
const NAMESPACE_MAX: Duration = Duration::from_secs(10);

/// How nodes are kept apart.
#[derive(Debug)]
pub enum Network {
    /// Each node in a network namespace of its own. The process must have been started in one, see [`can_have_namespaces`].
    Namespaces(Vec<Holder>),
    /// All on loopback; a relay for each ordered pair.
    Relays {
        /// Where the nodes listen.
        nodes: Vec<SocketAddr>,
        /// By the numbers of who connects and to whom.
        relays: BTreeMap<(usize, usize), RelayHandle>,
    },
}

/// A process that keeps a namespace.
#[derive(Debug)]
pub struct Holder(Child);

/// A relay, of which only the network knows more.
#[derive(Debug)]
pub struct RelayHandle(Relay);

impl Drop for Holder {
    fn drop(&mut self) {
        // Gone already when the namespace was.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The options of `unshare` with which this user can have network namespaces; `None` when there is no way.
#[must_use]
pub fn can_have_namespaces() -> Option<&'static [&'static str]> {
    let probe = "ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge && \
                 unshare -n true && nsenter -t $$ -n true";
    let ways: [&[&str]; 2] = [&["-n"], &["-Urn"]];
    ways.into_iter().find(|options| {
        let mut command = Command::new("unshare");
        command.args(*options).args(["sh", "-c", probe]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

impl Network {
    /// Namespaces for `count` nodes, at most 9, from within one that is free of others' interfaces.
    ///
    /// # Errors
    /// The system refuses a namespace or an interface.
    pub fn namespaces(count: usize) -> anyhow::Result<Self> {
        ip("link set lo up")?;
        ip("link add clients type bridge")?;
        ip("addr add 10.78.0.254/24 dev clients")?;
        ip("link set clients up")?;
        let mut holders = Vec::new();
        for node in 1..=count {
            let holder = hold()?;
            let pid = holder.0.id();
            ip(&format!(
                "link add c{node} type veth peer name clients netns {pid}"
            ))?;
            ip(&format!("link set c{node} master clients up"))?;
            for step in [
                "link set lo up".to_owned(),
                format!("addr add 10.78.0.{node}/24 dev clients"),
                "link set clients up".to_owned(),
            ] {
                ip_in(pid, &step)?;
            }
            holders.push(holder);
        }
        for (low, high) in pairs(count) {
            ip(&format!("link add b{low}{high} type bridge"))?;
            ip(&format!("link set b{low}{high} up"))?;
            for (node, other) in [(low, high), (high, low)] {
                let pid = holders[node - 1].0.id();
                ip(&format!(
                    "link add p{node}{other} type veth peer name n{other} netns {pid}"
                ))?;
                ip(&format!("link set p{node}{other} master b{low}{high} up"))?;
                ip_in(pid, &format!("addr add 10.78.{low}{high}.{node}/24 dev n{other}"))?;
                ip_in(pid, &format!("link set n{other} up"))?;
            }
        }
        Ok(Self::Namespaces(holders))
    }

    /// Relays between `count` nodes on ports of loopback that are free now.
    ///
    /// # Errors
    /// No port is to be had.
    pub fn relays(count: usize) -> anyhow::Result<Self> {
        let held: Vec<_> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let nodes: Vec<_> = held
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()?;
        let mut relays = BTreeMap::new();
        for (low, high) in pairs(count) {
            for (from, to) in [(low, high), (high, low)] {
                relays.insert((from, to), RelayHandle(Relay::open(nodes[to - 1])?));
            }
        }
        Ok(Self::Relays { nodes, relays })
    }

    /// What the network is made of, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "namespaces",
            Self::Relays { .. } => "relays",
        }
    }

    /// Where clients reach a node. Nodes are numbered from 1.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        match self {
            Self::Namespaces(_) => format!("10.78.0.{node}:{PORT}"),
            Self::Relays { nodes, .. } => nodes[node - 1].to_string(),
        }
    }

    /// Where a node binds.
    #[must_use]
    pub fn listen(&self, node: usize) -> String {
        match self {
            Self::Namespaces(_) => format!("0.0.0.0:{PORT}"),
            Self::Relays { nodes, .. } => nodes[node - 1].to_string(),
        }
    }

    /// Options of `start` that this network needs.
    #[must_use]
    pub fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Namespaces(_) => &["--insecure"],
            Self::Relays { .. } => &[],
        }
    }

    /// Where one node reaches another.
    #[must_use]
    pub fn peer_address(&self, from: usize, to: usize) -> String {
        match self {
            Self::Namespaces(_) => {
                let (low, high) = (from.min(to), from.max(to));
                format!("10.78.{low}{high}.{to}:{PORT}")
            }
            Self::Relays { relays, .. } => relays[&(from, to)].0.address.to_string(),
        }
    }

    /// The command, made to run where a node is.
    #[must_use]
    pub fn placed(&self, node: usize, command: &Command) -> Command {
        let mut placed = match self {
            Self::Namespaces(holders) => {
                let mut enter = Command::new("nsenter");
                let pid = holders[node - 1].0.id().to_string();
                enter.args(["-t", &pid, "-n", "--"]).arg(command.get_program());
                enter
            }
            Self::Relays { .. } => Command::new(command.get_program()),
        };
        placed.args(command.get_args());
        placed
    }

    /// Silences both ways between two nodes, or ends the silence.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_cut(&self, one: usize, other: usize, cut: bool) -> anyhow::Result<()> {
        let (low, high) = (one.min(other), one.max(other));
        for (from, to) in [(low, high), (high, low)] {
            match self {
                Self::Namespaces(_) if cut => ip(&format!("link set p{from}{to} nomaster"))?,
                Self::Namespaces(_) => ip(&format!("link set p{from}{to} master b{low}{high}"))?,
                Self::Relays { relays, .. } => relays[&(from, to)].0.set_cut(cut),
            }
        }
        Ok(())
    }
}

/// Each pair of numbers from 1 once, the lower first.
fn pairs(count: usize) -> Vec<(usize, usize)> {
    (1..=count)
        .flat_map(|low| (low + 1..=count).map(move |high| (low, high)))
        .collect()
}

fn hold() -> anyhow::Result<Holder> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let mut command = Command::new("unshare");
    command
        .args(["-n", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let holder = Holder(command.spawn().context("cannot run unshare")?);
    let began = Instant::now();
    let path = format!("/proc/{}/ns/net", holder.0.id());
    while std::fs::read_link(&path).context("the namespace is gone")? == own {
        ensure!(
            began.elapsed() < NAMESPACE_MAX,
            "unshare -n does not come to an end"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(holder)
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    done(Command::new("ip").args(arguments.split(' ')), arguments)
}

fn ip_in(pid: u32, arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n", "--", "ip"]);
    done(command.args(arguments.split(' ')), arguments)
}

fn done(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ip {what}: {said}");
    Ok(())
}
