//! The nodes that this one knows beside those that it was started with: the file `NODES`, replaced when one is learned of.
//!
//! ```text
//! magic "CLNODES1" │ crc u32 over what follows │ count u32 │ count × (node u64 │ IPv6 address 16 bytes │ port u16) │ zeros to a multiple of 4096
//! ```
//! An IPv4 address is written as the IPv6 address that stands for it.

use crate::cluster::{Member, NODE_MAX};
use crate::file;
use base::NodeId;
use base::checksum::crc32c;
use base::limits::BLOCK_BYTES;
use core::net::{IpAddr, Ipv6Addr};
use env::{Address, Disk, DiskError, Env, File, OpenMode};

/// The file's name in the data directory.
pub const FILE: &str = "NODES";
const MAGIC: &[u8; 8] = b"CLNODES1";
const CHECKED_FROM: usize = 12;
const ENTRIES_FROM: usize = 16;
const ENTRY_BYTES: usize = 26;

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
    let disk = env.disk();
    match disk.open(FILE, OpenMode::Read).await {
        Ok(file) => {
            let bytes = usize::try_from(file.len().await?).map_err(|_| RosterError::Unknown)?;
            let learned = decode(&file.read_at(0, bytes).await?).ok_or(RosterError::Unknown)?;
            disk.sync_dir("").await?;
            Ok(learned)
        }
        Err(error) if error.kind == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Writes them durably in place of what was there.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn store<E: Env>(env: &E, members: &[Member]) -> Result<(), DiskError> {
    let bytes = (ENTRIES_FROM + members.len() * ENTRY_BYTES).next_multiple_of(BLOCK_BYTES);
    let mut block = env.disk().alloc(bytes);
    encode(members, &mut block);
    file::replace(env, "", FILE, block).await
}

fn encode(members: &[Member], block: &mut [u8]) {
    let count = u32::try_from(members.len()).expect("a cluster has few nodes");
    block[..8].copy_from_slice(MAGIC);
    block[12..16].copy_from_slice(&count.to_le_bytes());
    for (member, entry) in members
        .iter()
        .zip(block[ENTRIES_FROM..].chunks_exact_mut(ENTRY_BYTES))
    {
        let (ip, port) = address_to_bytes(member.address);
        entry[..8].copy_from_slice(&member.node.0.to_le_bytes());
        entry[8..24].copy_from_slice(&ip);
        entry[24..].copy_from_slice(&port.to_le_bytes());
    }
    let end = ENTRIES_FROM + members.len() * ENTRY_BYTES;
    let crc = crc32c(&block[CHECKED_FROM..end]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn decode(block: &[u8]) -> Option<Vec<Member>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
    let count = usize::try_from(u32_at(12)?).ok()?;
    let end = count.checked_mul(ENTRY_BYTES)?.checked_add(ENTRIES_FROM)?;
    if block.get(..8)? != MAGIC || crc32c(block.get(CHECKED_FROM..end)?) != u32_at(8)? {
        return None;
    }
    let member = |entry: &[u8]| {
        let node = NodeId(u64::from_le_bytes(entry.get(..8)?.try_into().ok()?));
        let ip = entry.get(8..24)?.try_into().ok()?;
        let port = u16::from_le_bytes(entry.get(24..26)?.try_into().ok()?);
        let is_node = node > NodeId(0) && node <= NODE_MAX;
        is_node.then(|| Member::new(node, address_from_bytes(ip, port)))
    };
    block[ENTRIES_FROM..end]
        .chunks_exact(ENTRY_BYTES)
        .map(member)
        .collect()
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
    fn every_flipped_bit_is_noticed() {
        let mut block = vec![0; BLOCK_BYTES];
        encode(&members(), &mut block);
        assert_eq!(decode(&block), Some(members()));
        for bit in 0..(ENTRIES_FROM + 2 * ENTRY_BYTES) * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(decode(b"short"), None);
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
