//! Who the node is: the file `IDENTITY` in the data directory, written once, and rewritten when the number of shards changes.
//!
//! ```text
//! magic "CLNODEID" │ version u32 │ crc u32 over what follows │ cluster u128 │ node u64 │ shards u16 │ birth u64 │ zeros to 4096
//! ```

use crate::cluster::Cluster;
use crate::file;
use base::NodeId;
use base::checksum::crc32c;
use base::limits::BLOCK_BYTES;
use env::{Disk, DiskError, Env, File, OpenMode};

/// The file's name in the data directory.
pub const FILE: &str = "IDENTITY";
const MAGIC: &[u8; 8] = b"CLNODEID";
const VERSION: u32 = 1;
const CHECKED_FROM: usize = 16;
const CHECKED_TO: usize = 50;

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
    /// The file is of another program or a newer version.
    #[error("{FILE} is not a corelane identity of version {VERSION}: is this a data directory of corelane?")]
    Unknown,
}

impl Identity {
    /// Reads the identity, or draws and writes one in a new data directory. Durable when it returns: an earlier process may
    /// have been killed between the rename and the sync, and who the node is must not change with a power failure.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged: nothing is changed then.
    pub async fn open<E: Env>(
        env: &E,
        shards: u16,
        cluster: Option<&Cluster>,
    ) -> Result<Self, IdentityError> {
        let disk = env.disk();
        match disk.open(FILE, OpenMode::Read).await {
            Ok(file) => {
                let identity = Self::decode(&file.read_at(0, BLOCK_BYTES).await?)?;
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
                Ok(identity)
            }
            Err(error) if error.kind == std::io::ErrorKind::NotFound => {
                let mut prng = env.prng();
                let drawn = u128::from(prng.next_u64()) << 64 | u128::from(prng.next_u64());
                let (cluster, node) = cluster.map_or((drawn, NodeId(1)), |cluster| (cluster.id, cluster.me));
                let identity = Self {
                    cluster,
                    node,
                    shards,
                    birth: prng.next_u64().max(1),
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
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[16..32].copy_from_slice(&self.cluster.to_le_bytes());
        block[32..40].copy_from_slice(&self.node.0.to_le_bytes());
        block[40..42].copy_from_slice(&self.shards.to_le_bytes());
        block[42..50].copy_from_slice(&self.birth.to_le_bytes());
        let crc = crc32c(&block[CHECKED_FROM..CHECKED_TO]);
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
        if take(8)? != MAGIC || number(take(4)?) != u128::from(VERSION) {
            return Err(IdentityError::Unknown);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "as many bytes were read as the type has"
        )]
        {
            let expected = number(take(4)?) as u32;
            let found = crc32c(&block[CHECKED_FROM..CHECKED_TO]);
            if expected != found {
                return Err(IdentityError::Corruption { expected, found });
            }
            let cluster = number(take(16)?);
            let node = NodeId(number(take(8)?) as u64);
            Ok(Self {
                cluster,
                node,
                shards: number(take(2)?) as u16,
                birth: number(take(8)?) as u64,
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
            .block_on(Identity::open(&machine.env(), 2, None))
            .expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second
                .block_on(Identity::open(&second.env(), 2, None))
                .expect("the disk is fine");
            let third = ImageMachine::new(&second.image_least());
            let file = third.block_on(third.env().disk().open(FILE, OpenMode::Read));
            let block = third.block_on(file.expect("it is durable").read_at(0, BLOCK_BYTES));
            assert_eq!(Identity::decode(&block.expect("the disk is fine")), Ok(seen));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let identity = Identity {
            cluster: 0x1234_5678_9abc_def0_0fed_cba9_8765_4321,
            node: NodeId(1),
            shards: 2,
            birth: 0xfedc_ba98_7654_3210,
        };
        let mut block = vec![0; BLOCK_BYTES];
        identity.encode(&mut block);
        assert_eq!(Identity::decode(&block), Ok(identity));
        for bit in 0..CHECKED_TO * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&flipped).is_err(), "bit {bit}");
        }
        assert_eq!(Identity::decode(b"short"), Err(IdentityError::Unknown));
    }
}
