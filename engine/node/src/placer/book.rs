//! All that was said to the placer: how nodes are meant to be used, and what is wished for the keys of prefixes. Pure.

use super::policy::Policies;
use super::standing::Standings;
use wire::peer::{ArchivedPolicy, ArchivedStanding};

/// What a node knows of it. Of two words about one thing the later counts, so that nodes which tell each other agree in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) standings: Standings,
    pub(crate) policies: Policies,
}

impl Book {
    /// What another node says; `None` when no node says such a thing.
    pub(crate) fn from_wire(
        standings: &[ArchivedStanding],
        policies: &[ArchivedPolicy<'static>],
    ) -> Option<Self> {
        Some(Self {
            standings: Standings::from_wire(standings)?,
            policies: Policies::from_wire(policies)?,
        })
    }

    /// Takes what another node knows. Whether it was news.
    pub(crate) fn learn(&mut self, theirs: &Self) -> bool {
        let nodes = self.standings.learn(&theirs.standings);
        let prefixes = self.policies.learn(&theirs.policies);
        nodes || prefixes
    }

    /// A number that stands for all of it: FNV-1a over the entries of the files.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        self.standings.digest(&mut add);
        // Where one list ends and the other begins counts.
        add(&[0xff]);
        self.policies.digest(&mut add);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::RequestId;
    use wire::outbox::encode_one;
    use wire::peer::{ArchivedPlacingStep, Placing, PlacingStep, Policy, PolicyWish, Standing};
    use wire::policy::{POLICY_ENTRIES_MAX, POLICY_PREFIX_BYTES_MAX, POLICY_TEXT_BYTES_MAX};
    use wire::{FrameReader, PeerRef, decode_peer};

    /// What a node takes these words for, over the wire.
    fn sent(standings: &[Standing], policies: &[Policy<'_>]) -> Option<Book> {
        let step = PlacingStep::Words {
            kept: false,
            standings,
            policies,
        };
        let bytes = encode_one(RequestId(0), &Placing { term: 1, step }).unwrap();
        let mut reader = FrameReader::new(bytes.len());
        reader.extend(&bytes);
        let frame = reader.next().unwrap().unwrap();
        let PeerRef::Placing(placing) = decode_peer(&frame).unwrap() else {
            panic!("another message");
        };
        match &placing.step {
            ArchivedPlacingStep::Words {
                standings, policies, ..
            } => Book::from_wire(standings, policies),
            _ => panic!("another step"),
        }
    }

    const NODE: Standing = Standing {
        node: 4,
        state: 3,
        version: 17,
    };

    fn wish(constraints: &str) -> PolicyWish<'_> {
        PolicyWish {
            replicas: 3,
            split_bytes: 0,
            constraints,
            preferences: "",
            group: "",
        }
    }

    fn policy<'a>(prefix: &'a [u8], wish: PolicyWish<'a>) -> Policy<'a> {
        Policy {
            prefix,
            version: 18,
            wish: Some(wish),
        }
    }

    #[test]
    fn a_book_is_the_same_on_all_nodes_that_know_as_much() {
        let one = sent(&[NODE], &[policy(b"eu/", wish("+region=eu"))]).unwrap();
        let mut other = Book::default();
        assert_ne!(one.digest(), other.digest());
        assert!(other.learn(&one) && !other.learn(&one));
        assert_eq!((&one, one.digest()), (&other, other.digest()));
        let again = sent(&one.standings.to_wire(), &one.policies.to_wire());
        assert_eq!(again, Some(one));
    }

    #[test]
    fn what_no_node_says_is_refused_before_it_counts() {
        let long = vec![b'p'; POLICY_PREFIX_BYTES_MAX + 1];
        let text = format!("+region={}", "e".repeat(POLICY_TEXT_BYTES_MAX));
        let many: Vec<Vec<u8>> = (0..=POLICY_ENTRIES_MAX)
            .map(|at| at.to_string().into_bytes())
            .collect();
        let many: Vec<_> = many.iter().map(|prefix| policy(prefix, wish(""))).collect();
        let last = u64::MAX;
        let wrong_nodes = [
            Standing { node: 0, ..NODE },
            Standing { node: 1024, ..NODE },
            Standing { state: 4, ..NODE },
            Standing {
                version: last,
                ..NODE
            },
        ];
        for wrong in wrong_nodes {
            assert_eq!(sent(&[wrong], &[]), None, "{wrong:?}");
        }
        let crowd = PolicyWish {
            replicas: 65,
            ..wish("")
        };
        let small = PolicyWish {
            split_bytes: 1,
            ..wish("")
        };
        let late = Policy {
            version: last,
            ..policy(b"", wish(""))
        };
        let wrong_policies = [
            policy(&long, wish("")),
            policy(b"", wish(&text)),
            policy(b"", wish("region=eu")),
            policy(b"", crowd),
            policy(b"", small),
            late,
        ];
        for wrong in wrong_policies {
            assert_eq!(sent(&[], &[wrong]), None, "{wrong:?}");
        }
        assert_eq!(sent(&[], &many), None);
        assert!(sent(&[], &many[1..]).is_some());
    }
}
