//! Who the node is: the file `IDENTITY` in the data directory, written once, and rewritten when the number of shards changes, and when
//! a version of the protocol between nodes becomes active.
//!
//! ```text
//! magic "CLNODEID" │ version u32 │ crc u32 over what follows │ cluster u128 │ node u64 │ shards u16 │ birth u64 │ active u16 │ zeros to 4096
//! ```
//! Version 1 ends with the birth, and is written as long as the protocol's first version is active. So a build that knows nothing of
//! versions of the protocol starts there, and refuses to where a later one is active: it does not know the file.

use crate::cluster::Cluster;
use crate::file;
use crate::version::Version;
use base::NodeId;
use base::checksum::crc32c;
use base::limits::BLOCK_BYTES;
use env::{Disk, DiskError, Env, File, OpenMode};

/// The file's name in the data directory.
pub const FILE: &str = "IDENTITY";
const MAGIC: &[u8; 8] = b"CLNODEID";
const VERSION_FIRST: u32 = 1;
const VERSION: u32 = 2;
const CHECKED_FROM: usize = 16;

/// Where the checksum's bytes end in a file of that version; `None` for one that this build does not know.
fn checked_to(version: u32) -> Option<usize> {
    match version {
        VERSION_FIRST => Some(50),
        VERSION => Some(52),
        _ => None,
    }
}

/// Who the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster: random, drawn with the first node.
    pub cluster: u128,
    /// The node within it.
    pub node: NodeId,
    /// How many shards it had when it was last started.
    pub shards: u16,
    /// Names the data directory, not zero: drawn when it was made. By it other nodes tell a node that lost its data directory, and
    /// what it promised with it, from the one that it was.
    pub birth: u64,
    /// The version of the protocol between nodes that is active, as far as this node has heard: it never falls.
    pub active: Version,
}

/// The data directory does not say who the node is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error("{FILE} is damaged: checksum expected {expected:#010x}, found {found:#010x}")]
    Corruption {
        /// What the file says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// The data is another node's, or of a node of another cluster.
    #[error(
        "this is the data of {found} of cluster {found_cluster:032x}, not of {wanted} of cluster {wanted_cluster:032x}: is \
         the data directory right, and the list of nodes?"
    )]
    Other {
        /// Whose data it is.
        found: NodeId,
        /// Of which cluster.
        found_cluster: u128,
        /// Who was started.
        wanted: NodeId,
        /// In which cluster.
        wanted_cluster: u128,
    },
    /// The data may have what this build does not know.
    #[error(
        "in this data directory version {active} of the protocol between nodes is active, and this build speaks versions up to {speaks}: \
         start it with a build that speaks version {active}"
    )]
    TooNew {
        /// What is active there.
        active: Version,
        /// What this build speaks.
        speaks: Version,
    },
    /// The file is of another program or a newer version.
    #[error(
        "{FILE} is not a corelane identity of version {VERSION_FIRST} or {VERSION}: is this a data directory of corelane?"
    )]
    Unknown,
}

impl Identity {
    /// Reads the identity, or draws and writes one in a new data directory. Durable when it returns: an earlier process may
    /// have been killed between the rename and the sync, and who the node is must not change with a power failure.
    ///
    /// A node that is alone asks nobody which version of the protocol may be active: the one that it `speaks` is, from its start on.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or says that a newer version is active than the node speaks: nothing is changed then.
    pub async fn open<E: Env>(
        env: &E,
        shards: u16,
        cluster: Option<&Cluster>,
        speaks: Version,
    ) -> Result<Self, IdentityError> {
        let disk = env.disk();
        match disk.open(FILE, OpenMode::Read).await {
            Ok(file) => {
                let identity = Self::decode(&file.read_at(0, BLOCK_BYTES).await?)?;
                let active = identity.active;
                if active > speaks {
                    return Err(IdentityError::TooNew { active, speaks });
                }
                if let Some(cluster) = cluster
                    && (identity.cluster, identity.node) != (cluster.id, cluster.me)
                {
                    return Err(IdentityError::Other {
                        found: identity.node,
                        found_cluster: identity.cluster,
                        wanted: cluster.me,
                        wanted_cluster: cluster.id,
                    });
                }
                disk.sync_dir("").await?;
                if cluster.is_none() && active < speaks {
                    let identity = Self {
                        active: speaks,
                        ..identity
                    };
                    identity.write(env).await?;
                    return Ok(identity);
                }
                Ok(identity)
            }
            Err(error) if error.kind == std::io::ErrorKind::NotFound => {
                let mut prng = env.prng();
                let drawn = u128::from(prng.next_u64()) << 64 | u128::from(prng.next_u64());
                let active = cluster.map_or(speaks, |cluster| cluster.begins.min(speaks));
                let (cluster, node) = cluster.map_or((drawn, NodeId(1)), |cluster| (cluster.id, cluster.me));
                let identity = Self {
                    cluster,
                    node,
                    shards,
                    birth: prng.next_u64().max(1),
                    active,
                };
                identity.write(env).await?;
                Ok(identity)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the identity durably.
    ///
    /// # Errors
    /// When the disk fails; the old identity stays.
    pub async fn write<E: Env>(&self, env: &E) -> Result<(), IdentityError> {
        let mut block = env.disk().alloc(BLOCK_BYTES);
        self.encode(&mut block);
        Ok(file::replace(env, "", FILE, block).await?)
    }

    fn encode(&self, block: &mut [u8]) {
        block[..8].copy_from_slice(MAGIC);
        let is_first = self.active <= Version::FIRST;
        let version = if is_first { VERSION_FIRST } else { VERSION };
        block[8..12].copy_from_slice(&version.to_le_bytes());
        block[16..32].copy_from_slice(&self.cluster.to_le_bytes());
        block[32..40].copy_from_slice(&self.node.0.to_le_bytes());
        block[40..42].copy_from_slice(&self.shards.to_le_bytes());
        block[42..50].copy_from_slice(&self.birth.to_le_bytes());
        if !is_first {
            block[50..52].copy_from_slice(&self.active.0.to_le_bytes());
        }
        let end = checked_to(version).expect("it is one of the two");
        let crc = crc32c(&block[CHECKED_FROM..end]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the identity from the content of its file.
    ///
    /// # Errors
    /// [`IdentityError::Unknown`] or [`IdentityError::Corruption`].
    pub fn decode(block: &[u8]) -> Result<Self, IdentityError> {
        let mut rest = block;
        let mut take = |len: usize| {
            let (head, tail) = rest.split_at_checked(len).ok_or(IdentityError::Unknown)?;
            rest = tail;
            Ok::<_, IdentityError>(head)
        };
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0u128, |n, &byte| n << 8 | u128::from(byte))
        };
        if take(8)? != MAGIC {
            return Err(IdentityError::Unknown);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "as many bytes were read as the type has"
        )]
        {
            let version = number(take(4)?) as u32;
            let expected = number(take(4)?) as u32;
            let end = checked_to(version).ok_or(IdentityError::Unknown)?;
            let found = crc32c(block.get(CHECKED_FROM..end).ok_or(IdentityError::Unknown)?);
            if expected != found {
                return Err(IdentityError::Corruption { expected, found });
            }
            let cluster = number(take(16)?);
            let node = NodeId(number(take(8)?) as u64);
            let (shards, birth) = (number(take(2)?) as u16, number(take(8)?) as u64);
            let active = match version {
                VERSION_FIRST => Version::FIRST,
                _ => Version(number(take(2)?) as u16),
            };
            Ok(Self {
                cluster,
                node,
                shards,
                birth,
                active,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskImage, ImageMachine};

    #[test]
    fn an_identity_that_a_killed_process_left_stays() {
        let machine = ImageMachine::new(&DiskImage::new());
        machine.record();
        machine
            .block_on(Identity::open(&machine.env(), 2, None, Version::NEWEST))
            .expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second
                .block_on(Identity::open(&second.env(), 2, None, Version::NEWEST))
                .expect("the disk is fine");
            let third = ImageMachine::new(&second.image_least());
            let file = third.block_on(third.env().disk().open(FILE, OpenMode::Read));
            let block = third.block_on(file.expect("it is durable").read_at(0, BLOCK_BYTES));
            assert_eq!(Identity::decode(&block.expect("the disk is fine")), Ok(seen));
        }
    }

    fn identity(active: Version) -> Identity {
        Identity {
            cluster: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
            node: NodeId(1),
            shards: 2,
            birth: 0xfedc_ba98_7654_3210,
            active,
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for (version, active) in [(VERSION_FIRST, Version::FIRST), (VERSION, Version(2))] {
            let identity = identity(active);
            let mut block = vec![0; BLOCK_BYTES];
            identity.encode(&mut block);
            assert_eq!(Identity::decode(&block), Ok(identity));
            for bit in 0..checked_to(version).expect("it is known") * 8 {
                let mut flipped = block.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Identity::decode(&flipped).is_err(), "bit {bit}");
            }
        }
        assert_eq!(Identity::decode(b"short"), Err(IdentityError::Unknown));
    }

    #[test]
    fn a_build_is_refused_data_that_it_may_not_know() {
        let machine = ImageMachine::new(&DiskImage::new());
        let open = |speaks| machine.block_on(Identity::open(&machine.env(), 2, None, speaks));
        let (old, new) = (Version(2), Version(3));
        assert_eq!(open(old).map(|identity| identity.active), Ok(old));
        assert_eq!(
            open(new).map(|identity| identity.active),
            Ok(new),
            "nobody else is there"
        );
        let error = open(old).expect_err("there is no way back");
        assert_eq!(
            error,
            IdentityError::TooNew {
                active: new,
                speaks: old
            }
        );
        assert!(
            error
                .to_string()
                .contains("start it with a build that speaks version 3")
        );
    }
}
