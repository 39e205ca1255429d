//! The nodes that this one knows beside those that it was started with: the file `NODES`, replaced when one is learned of.
//!
//! ```text
//! a list of magic "CLNODES1", whose entries are: node u64 │ IPv6 address 16 bytes │ port u16
//! ```
//! An IPv4 address is written as the IPv6 address that stands for it.

use crate::cluster::{Member, is_node};
use crate::file::List;
use crate::neighbours::Neighbours;
use crate::shard::Shard;
use crate::state::{Message, State};
use base::{NodeId, ShardId};
use core::mem;
use core::net::{IpAddr, Ipv6Addr};
use env::{Address, DiskError, Env, Mailbox};
use wire::peer::{NodeAddress, Roster, RosterEntry};

/// The file's name in the data directory.
pub const FILE: &str = "NODES";
const ENTRY_BYTES: usize = 26;
const LIST: List<ENTRY_BYTES> = List {
    name: FILE,
    magic: b"CLNODES1",
};

/// The list of nodes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error(
        "{FILE} is damaged or of another version of corelane: remove it, and start with --join or --cluster, which name other nodes"
    )]
    Unknown,
}

/// An address as it is written and sent: 16 bytes and a port.
pub(crate) fn address_to_bytes(address: Address) -> ([u8; 16], u16) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    (ip.octets(), address.port())
}

/// The address that was written so.
pub(crate) fn address_from_bytes(ip: [u8; 16], port: u16) -> Address {
    Address::new(Ipv6Addr::from(ip).to_canonical(), port)
}

/// Reads the nodes that were learned of; none when there is no file. What a killed process left is durable afterwards.
///
/// # Errors
/// [`RosterError`].
pub(crate) async fn load<E: Env>(env: &E) -> Result<Vec<Member>, RosterError> {
    let entries = LIST.load(env).await?.ok_or(RosterError::Unknown)?;
    let learned = entries.iter().map(from_entry).collect::<Option<_>>();
    learned.ok_or(RosterError::Unknown)
}

/// Writes them durably in place of what was there.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn store<E: Env>(env: &E, members: &[Member]) -> Result<(), DiskError> {
    let entries: Vec<_> = members.iter().map(to_entry).collect();
    LIST.store(env, &entries).await
}

fn to_entry(member: &Member) -> [u8; ENTRY_BYTES] {
    let (ip, port) = address_to_bytes(member.address);
    let mut entry = [0; ENTRY_BYTES];
    entry[..8].copy_from_slice(&member.node.0.to_le_bytes());
    entry[8..24].copy_from_slice(&ip);
    entry[24..].copy_from_slice(&port.to_le_bytes());
    entry
}

fn from_entry(entry: &[u8; ENTRY_BYTES]) -> Option<Member> {
    let node = NodeId(u64::from_le_bytes(entry[..8].try_into().ok()?));
    let ip = entry[8..24].try_into().ok()?;
    let port = u16::from_le_bytes(entry[24..].try_into().ok()?);
    is_node(node).then(|| Member::new(node, address_from_bytes(ip, port)))
}

impl<E: Env> Neighbours<E> {
    /// Tells every other node of all that are known.
    pub(crate) fn tell_roster(&self) {
        let nodes: Vec<_> = self.others().map(|member| member.node).collect();
        self.tell_roster_to(&nodes);
    }

    fn tell_roster_to(&self, told: &[NodeId]) {
        let entry = |member: &Member| {
            let (ip, port) = address_to_bytes(member.address);
            let address = NodeAddress { ip, port };
            RosterEntry {
                node: member.node.0,
                address,
                birth: self.birth_to_wire(member.node),
            }
        };
        let nodes: Vec<_> = self.nodes.iter().map(entry).collect();
        for node in told {
            self.links.send(*node, ShardId(0), &Roster { nodes: &nodes });
        }
    }
}

impl<E: Env, B> State<E, B> {
    /// Tells one of the other nodes, the next one at each call: what was said when something was learned may have been lost.
    pub(crate) fn tell_roster_in_turn(&mut self) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let last = neighbours.told;
        let nodes = || neighbours.others().map(|member| member.node);
        let next = nodes()
            .filter(|node| *node > last)
            .min()
            .or_else(|| nodes().min());
        if let Some(next) = next {
            neighbours.told = next;
            neighbours.tell_roster_to(&[next]);
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Writes which nodes were learned of. One at a time: what comes meanwhile is written by the one that is under way.
    pub(crate) async fn store_roster(&self) {
        if self.with_state(|state| mem::replace(&mut state.roster_storing, true)) {
            return;
        }
        let learned =
            |state: &mut State<E, B>| state.neighbours.as_ref().map(|neighbours| neighbours.learned());
        let mut stored = None;
        loop {
            let now = self.with_state(learned);
            if now == stored {
                break;
            }
            if let Err(error) = store(&self.env, now.as_deref().unwrap_or_default()).await {
                return self.fail(format!("the list of nodes could not be written: {error}"));
            }
            stored = now;
        }
        self.with_state(|state| state.roster_storing = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskImage, ImageMachine};

    fn members() -> Vec<Member> {
        let v4 = Address::from(([127, 0, 0, 2], 7500));
        let v6 = Address::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 7600);
        vec![Member::new(NodeId(4), v4), Member::new(NodeId(9), v6)]
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        for member in members() {
            assert_eq!(from_entry(&to_entry(&member)), Some(member));
        }
        assert_eq!(from_entry(&[0; ENTRY_BYTES]), None, "no node has that number");
    }

    #[test]
    fn a_list_that_was_read_stays() {
        let machine = ImageMachine::new(&DiskImage::new());
        machine
            .block_on(store(&machine.env(), &members()[..1]))
            .expect("the disk is fine");
        machine.record();
        machine
            .block_on(store(&machine.env(), &members()))
            .expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(load(&second.env()));
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(load(&third.env())), seen);
        }
    }
}
