//! What is explored.

use corelane_txn::Isolation;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Write(&'static str),
    Flush,
    Read(&'static str),
    /// Writes these by a one-shot transaction, if that key has what it has at first.
    Shot(&'static [&'static str], &'static str),
    Beat,
    Commit,
    RollBack,
}

/// What may happen.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) isolation: Isolation,
    /// For each transaction: when it begins, and what its client does.
    pub(crate) programs: Vec<(u64, Vec<Call>)>,
    /// How far pushes in time go; others are by force.
    pub(crate) pushes_above: Option<u64>,
    pub(crate) pushes: u8,
    pub(crate) repeats: u8,
    pub(crate) losses: u8,
    /// A loss makes a coordinator give up, rather than send again.
    pub(crate) gives_up: bool,
    pub(crate) reads: Vec<(&'static str, u64)>,
    pub(crate) moves: u8,
    pub(crate) closes: Option<u64>,
}

impl Scene {
    pub(crate) fn new(name: &'static str, isolation: Isolation, programs: Vec<(u64, Vec<Call>)>) -> Self {
        Self {
            name,
            isolation,
            programs,
            pushes_above: None,
            pushes: 0,
            repeats: 0,
            losses: 0,
            gives_up: false,
            reads: Vec::new(),
            moves: 0,
            closes: None,
        }
    }
}

/// The scenes, and whether a default run explores them.
pub(crate) fn scenes() -> Vec<(Scene, bool)> {
    use Call::{Beat, Commit, Flush, Read, RollBack, Shot, Write};
    use Isolation::{Serializable, Snapshot};
    let both = || vec![Write("a"), Write("b"), Commit];
    let piped = || vec![Write("a"), Flush, Write("b"), Commit];
    let change = |key| vec![Read(key), Write(key), Commit];
    let scene = Scene::new;
    vec![
        (
            Scene {
                pushes: 1,
                repeats: 1,
                ..scene("parallel commit, recovered", Snapshot, vec![(10, both())])
            },
            true,
        ),
        (
            Scene {
                losses: 1,
                repeats: 1,
                ..scene(
                    "one-shot, its condition overwritten",
                    Serializable,
                    vec![(10, vec![Shot(&["a", "b"], "b")]), (12, vec![Write("b"), Commit])],
                )
            },
            true,
        ),
        (
            Scene {
                losses: 1,
                ..scene(
                    "write skew by one-shots",
                    Serializable,
                    vec![(10, vec![Shot(&["a"], "b")]), (12, vec![Shot(&["b"], "a")])],
                )
            },
            true,
        ),
        (
            Scene {
                pushes: 2,
                ..scene("two recoverers", Snapshot, vec![(10, both())])
            },
            false,
        ),
        (
            Scene {
                reads: vec![("b", 20)],
                losses: 1,
                pushes: 1,
                ..scene("read while staged", Snapshot, vec![(10, both())])
            },
            true,
        ),
        (
            Scene {
                losses: 1,
                gives_up: true,
                pushes: 1,
                ..scene("gives up a commit", Snapshot, vec![(10, both())])
            },
            true,
        ),
        (
            Scene {
                pushes: 1,
                moves: 1,
                closes: Some(15),
                ..scene("leases move, timestamps close", Snapshot, vec![(10, both())])
            },
            true,
        ),
        (
            Scene {
                pushes: 1,
                pushes_above: Some(20),
                ..scene("pushed in time", Snapshot, vec![(10, both())])
            },
            true,
        ),
        (
            Scene {
                pushes: 1,
                moves: 1,
                ..scene("pipelined write, lost", Snapshot, vec![(10, piped())])
            },
            true,
        ),
        (
            Scene {
                losses: 1,
                repeats: 1,
                ..scene(
                    "one range, overwritten, repeated",
                    Snapshot,
                    vec![(10, vec![Write("a"), Commit]), (12, vec![Write("a"), Commit])],
                )
            },
            true,
        ),
        (
            scene(
                "lost update",
                Snapshot,
                vec![(10, change("a")), (12, change("a"))],
            ),
            true,
        ),
        (
            Scene {
                reads: vec![("b", 20)],
                ..scene(
                    "serializable, pushed, its read overwritten",
                    Serializable,
                    vec![
                        (10, vec![Read("a"), Write("a"), Write("b"), Commit]),
                        (12, vec![Write("a"), Commit]),
                    ],
                )
            },
            true,
        ),
        (
            scene(
                "write skew",
                Serializable,
                vec![
                    (10, vec![Read("a"), Write("b"), Commit]),
                    (12, vec![Read("b"), Write("a"), Commit]),
                ],
            ),
            true,
        ),
        (
            Scene {
                pushes: 1,
                ..scene(
                    "beats after an abort",
                    Snapshot,
                    vec![(10, vec![Write("a"), Flush, Read("a"), Beat, Write("b"), Commit])],
                )
            },
            true,
        ),
        (
            Scene {
                pushes: 1,
                repeats: 1,
                ..scene(
                    "taken back",
                    Snapshot,
                    vec![(10, vec![Write("a"), Write("b"), Flush, RollBack])],
                )
            },
            true,
        ),
        (
            Scene {
                pushes: 1,
                reads: vec![("b", 20)],
                ..scene(
                    "staged, and its refresh fails",
                    Serializable,
                    vec![
                        (10, vec![Read("b"), Write("a"), Write("b"), Commit]),
                        (12, vec![Write("b"), Commit]),
                    ],
                )
            },
            true,
        ),
        (
            Scene {
                pushes: 2,
                pushes_above: Some(30),
                reads: vec![("b", 20)],
                ..scene("a failed attempt is pushed in time", Snapshot, vec![(10, both())])
            },
            false,
        ),
        (
            Scene {
                pushes: 2,
                pushes_above: Some(20),
                ..scene("pushed in time, twice", Snapshot, vec![(10, both())])
            },
            false,
        ),
        (
            Scene {
                pushes: 2,
                repeats: 1,
                losses: 1,
                ..scene("two recoverers, repeats, losses", Snapshot, vec![(10, both())])
            },
            false,
        ),
        (
            Scene {
                pushes: 2,
                pushes_above: Some(20),
                losses: 1,
                reads: vec![("b", 30)],
                ..scene("pushed in time, read, losses", Snapshot, vec![(10, both())])
            },
            false,
        ),
        (
            Scene {
                pushes: 1,
                moves: 1,
                repeats: 1,
                losses: 1,
                ..scene("pipelined, moves, repeats, losses", Snapshot, vec![(10, piped())])
            },
            false,
        ),
        (
            Scene {
                pushes: 1,
                ..scene(
                    "two write both keys",
                    Snapshot,
                    vec![(10, both()), (12, vec![Write("b"), Write("a"), Commit])],
                )
            },
            false,
        ),
    ]
}
