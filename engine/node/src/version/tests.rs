use super::*;

const NODES: [NodeId; 2] = [NodeId(2), NodeId(3)];

fn old() -> Versions<u8> {
    Versions::new(Version(3), Version(1))
}

#[test]
fn greetings_fit_when_each_speaks_what_is_active_for_the_other() {
    let mut versions = Versions::<u8>::new(Version(3), Version(2));
    let judged = |versions: &Versions<u8>, active, speaks| versions.judge(Version(active), Version(speaks));
    assert_eq!(judged(&versions, 1, 2), Greeting::Fits);
    assert_eq!(judged(&versions, 2, 9), Greeting::Fits);
    assert_eq!(judged(&versions, 1, 1), Greeting::TooOld);
    assert_eq!(judged(&versions, 4, 9), Greeting::TooNew);
    assert_eq!(judged(&versions, 3, 3), Greeting::News);
    versions.demand(Version(3));
    assert_eq!(
        judged(&versions, 1, 2),
        Greeting::TooOld,
        "demanded before it is active"
    );
    assert_eq!(judged(&versions, 3, 3), Greeting::News);
    versions.activate(Version(3));
    assert_eq!(judged(&versions, 3, 3), Greeting::Fits);
}

#[test]
fn a_version_is_agreed_when_all_have_said_it_last() {
    let mut versions = old();
    assert_eq!(versions.agreed([]), Some(Version(3)), "nobody else is there");
    assert_eq!(versions.agreed(NODES), None);
    versions.hear(7, NodeId(2), Version(3));
    assert_eq!(versions.agreed(NODES), None, "one has said nothing");
    versions.hear(8, NodeId(3), Version(2));
    assert_eq!(versions.agreed(NODES), Some(Version(2)));
    versions.hear(9, NodeId(2), Version(1));
    assert_eq!(versions.agreed(NODES), None, "one has gone back");
}

#[test]
fn what_an_earlier_life_said_late_counts_until_its_connection_is_gone() {
    let mut versions = old();
    versions.hear(8, NodeId(3), Version(3));
    versions.hear(7, NodeId(2), Version(3));
    versions.hear(6, NodeId(2), Version(1));
    assert_eq!(versions.agreed(NODES), None);
    versions.on_gone(6);
    assert_eq!(versions.agreed(NODES), Some(Version(3)));
    versions.on_gone(7);
    assert_eq!(
        versions.agreed(NODES),
        Some(Version(3)),
        "a node that is down is what it was"
    );
    versions.hear(9, NodeId(2), Version(1));
    assert_eq!(versions.agreed(NODES), None);
}

#[test]
fn a_version_is_raised_once_and_never_falls() {
    let mut versions = old();
    assert!(versions.want(Version(2)) && !versions.want(Version(2)));
    assert!(!versions.want(Version(4)), "it is not spoken");
    assert_eq!(versions.begin(), Some(Version(2)));
    assert!(versions.want(Version(3)));
    assert_eq!(versions.begin(), None, "one at a time");
    versions.demand(Version(2));
    versions.activate(Version(2));
    assert_eq!(versions.active(), Version(2));
    assert_eq!(versions.begin(), Some(Version(3)));
    versions.demand(Version(3));
    versions.activate(Version(3));
    versions.activate(Version(2));
    assert_eq!((versions.active(), versions.begin()), (Version(3), None));
}

#[test]
fn connections_end_whose_nodes_do_not_speak_what_is_demanded() {
    let mut versions = old();
    versions.hear(7, NodeId(2), Version(2));
    assert!(versions.demand(Version(2)).is_empty());
    assert_eq!(versions.demand(Version(3)), [7]);
    versions.on_gone(7);
    assert!(versions.demand(Version(3)).is_empty());
}
