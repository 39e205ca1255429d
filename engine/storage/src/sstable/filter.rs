//! Which keys a partition surely does not have: a Bloom filter whose bits for one key lie in one cache line.
//!
//! Ten bits a key, six probes: about 1.3 % of absent keys pass. The hash is part of the format, seeded by the table's id.
//!
//! Source: Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007 (blocked filters).

const BITS_PER_KEY: usize = 10;
const PROBES: u32 = 6;
const LINE_BYTES: usize = 64;
/// A probe takes nine bits of the hash: 512 bits a line.
const PROBE_BITS: u32 = 9;

const MIX_A: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_B: u64 = 0xd1b5_4a32_d192_ed03;

#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves of the product are meant"
)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a user key in the table with this id. Part of the format.
#[inline]
pub(crate) fn hash(uid: u64, key: &[u8]) -> u64 {
    let mut h = uid ^ MIX_B;
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        h = fold(h ^ u64::from_le_bytes(*word), MIX_A);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    h = fold(h ^ u64::from_le_bytes(last), MIX_A);
    fold(h ^ key.len() as u64, MIX_B)
}

fn probes(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let bits = fold(hash, MIX_A);
    (0..PROBES).map(move |probe| {
        let bit = bits >> (probe * PROBE_BITS) & 0x1ff;
        ((bit >> 3) as usize, 1u8 << (bit & 7))
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the result is below `lines`")]
fn line(hash: u64, lines: usize) -> usize {
    ((u128::from(hash) * lines as u128) >> 64) as usize
}

/// The filter of the keys with these hashes.
pub(crate) fn build(hashes: &[u64]) -> Vec<u8> {
    let lines = (hashes.len() * BITS_PER_KEY).div_ceil(LINE_BYTES * 8);
    let mut filter = vec![0; lines * LINE_BYTES];
    for &hash in hashes {
        let start = line(hash, lines) * LINE_BYTES;
        for (byte, bit) in probes(hash) {
            filter[start + byte] |= bit;
        }
    }
    filter
}

/// Asks for the line that [`may_contain`] will look at.
#[inline]
pub(crate) fn prefetch(filter: &[u8], hash: u64) {
    let lines = filter.len() / LINE_BYTES;
    if lines > 0 {
        base::prefetch::prefetch(&filter[line(hash, lines) * LINE_BYTES]);
    }
}

/// False when the key with this hash is surely not among those the filter was built of.
#[inline]
pub(crate) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let lines = filter.len() / LINE_BYTES;
    if lines == 0 {
        return false;
    }
    let start = line(hash, lines) * LINE_BYTES;
    let line = &filter[start..start + LINE_BYTES];
    probes(hash).all(|(byte, bit)| line[byte] & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_pass_and_few_others_do() {
        let keys = |from: u32, to: u32| (from..to).map(|i| hash(42, format!("user{i:08}").as_bytes()));
        let members: Vec<u64> = keys(0, 10_000).collect();
        let filter = build(&members);
        assert!(members.iter().all(|&h| may_contain(&filter, h)));
        let passed = keys(10_000, 110_000).filter(|&h| may_contain(&filter, h)).count();
        assert!(
            (200..2_500).contains(&passed),
            "{passed} of 100,000 absent keys passed"
        );
        assert!(!may_contain(&build(&[]), 7));
    }

    #[test]
    fn the_hash_is_frozen() {
        let hashes = [hash(0, b""), hash(1, b"abcdefgh"), hash(1, b"abcdefghi")];
        assert_eq!(hashes, HASHES, "{hashes:#x?}");
    }

    const HASHES: [u64; 3] = [
        0x889c_930b_c581_a949,
        0x4b6d_fa0d_8d8f_9981,
        0x5049_5358_2108_b90c,
    ];
}
