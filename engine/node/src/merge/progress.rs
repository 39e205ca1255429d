//! What comes next on the way to a merge: decided anew from the two ranges as they are.

use base::{Index, NodeId, RangeId};
use replica::command::MergeStep;
use replica::replica::Merging;

/// One of the two ranges, as its replica here knows it.
#[derive(Debug, Clone)]
pub(super) struct Side {
    /// Where its replicas are, ascending; all of them vote.
    pub(super) nodes: Vec<NodeId>,
    pub(super) leads: bool,
    /// It leads, and a step may be proposed.
    pub(super) takes_steps: bool,
    pub(super) merging: Merging,
    pub(super) generation: u64,
}

/// What the leader of the left range sees.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) left: Side,
    pub(super) right: Side,
    /// All nodes have gathered for the merge as it is: for none, or for the one that has begun.
    pub(super) is_gathered: bool,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Wait(&'static str),
    /// The replicas are on different nodes.
    Unlike,
    /// This node shall lead the right range, too.
    Lead,
    /// All nodes are to gather, for this merge.
    Gather(Index),
    /// To be proposed in the left range.
    Left(MergeStep),
    /// To be proposed in the right range.
    Right(MergeStep),
}

/// What comes next so that `left`, which is led here, absorbs `right`.
pub(super) fn next(look: &Look, left: RangeId, right: RangeId) -> Next {
    let (ours, theirs) = (&look.left, &look.right);
    let merge = match ours.merging {
        Merging::Nothing => None,
        Merging::Expects { right: of, merge } if of == right => Some(merge),
        Merging::Expects { .. } | Merging::Frozen { .. } => {
            return Next::Wait("the range takes part in another merge");
        }
    };
    if ours.nodes != theirs.nodes {
        return Next::Unlike;
    }
    let frozen = match theirs.merging {
        Merging::Nothing => None,
        Merging::Frozen {
            left: by, merge: of, ..
        } if by == left && Some(of) == merge => Some(of),
        Merging::Expects { .. } | Merging::Frozen { .. } => {
            return Next::Wait("the right range takes part in another merge");
        }
    };
    if frozen.is_none() && !theirs.leads {
        return Next::Lead;
    }
    match (merge, frozen) {
        (None, _) if !look.is_gathered => Next::Gather(Index::ZERO),
        (None, _) if ours.takes_steps => Next::Left(MergeStep::Expect { right }),
        (Some(merge), None) if theirs.takes_steps => Next::Right(MergeStep::Subsume {
            left,
            merge,
            generation: ours.generation,
        }),
        (Some(merge), Some(_)) if !look.is_gathered => Next::Gather(merge),
        (Some(merge), Some(_)) if ours.takes_steps => Next::Left(MergeStep::Absorb { right, merge }),
        (None, _) | (Some(_), None | Some(_)) => {
            Next::Wait("a range is being split or moved, or leadership is handed over")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: RangeId = RangeId(2);
    const RIGHT: RangeId = RangeId(9);
    const MERGE: Index = Index(40);

    fn side(merging: Merging) -> Side {
        Side {
            nodes: [1, 2, 3].map(NodeId).to_vec(),
            leads: true,
            takes_steps: true,
            merging,
            generation: 5,
        }
    }

    fn look(left: Merging, right: Merging, is_gathered: bool) -> Look {
        Look {
            left: side(left),
            right: side(right),
            is_gathered,
        }
    }

    const EXPECTS: Merging = Merging::Expects {
        right: RIGHT,
        merge: MERGE,
    };
    const FROZEN: Merging = Merging::Frozen {
        left: LEFT,
        merge: MERGE,
        generation: 5,
    };

    #[test]
    fn a_merge_goes_step_by_step_and_gathers_twice() {
        let nothing = Merging::Nothing;
        let next = |left, right, gathered| next(&look(left, right, gathered), LEFT, RIGHT);
        assert_eq!(next(nothing, nothing, false), Next::Gather(Index::ZERO));
        assert_eq!(
            next(nothing, nothing, true),
            Next::Left(MergeStep::Expect { right: RIGHT })
        );
        let subsume = MergeStep::Subsume {
            left: LEFT,
            merge: MERGE,
            generation: 5,
        };
        assert_eq!(next(EXPECTS, nothing, false), Next::Right(subsume));
        assert_eq!(next(EXPECTS, FROZEN, false), Next::Gather(MERGE));
        let absorb = MergeStep::Absorb {
            right: RIGHT,
            merge: MERGE,
        };
        assert_eq!(next(EXPECTS, FROZEN, true), Next::Left(absorb));
    }

    #[test]
    fn what_stands_in_the_way_is_waited_for_or_said() {
        let mut other = look(Merging::Nothing, Merging::Nothing, true);
        other.right.nodes.pop();
        assert_eq!(next(&other, LEFT, RIGHT), Next::Unlike);
        let mut led = look(Merging::Nothing, Merging::Nothing, true);
        led.right.leads = false;
        assert_eq!(next(&led, LEFT, RIGHT), Next::Lead);
        // Once it is frozen nobody need lead it.
        let mut frozen = look(EXPECTS, FROZEN, true);
        frozen.right.leads = false;
        assert!(matches!(
            next(&frozen, LEFT, RIGHT),
            Next::Left(MergeStep::Absorb { .. })
        ));
        let earlier = Merging::Frozen {
            left: LEFT,
            merge: Index(30),
            generation: 5,
        };
        assert!(matches!(
            next(&look(EXPECTS, earlier, true), LEFT, RIGHT),
            Next::Wait(_)
        ));
        assert!(matches!(
            next(&look(Merging::Nothing, EXPECTS, true), LEFT, RIGHT),
            Next::Wait(_)
        ));
        let mut busy = look(EXPECTS, FROZEN, true);
        busy.left.takes_steps = false;
        assert!(matches!(next(&busy, LEFT, RIGHT), Next::Wait(_)));
    }
}
