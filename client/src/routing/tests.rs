//! Routing told what happened, step by step.

use super::*;
use crate::range_cache::RangeInfo;
use base::key::Span;

const MS: Duration = Duration::from_millis(1);
const HOME: Route<'static> = Route::Home(ShardId(0));

fn address(at: u64) -> Address {
    format!("n{at}:7400").parse().unwrap()
}

/// Nodes 1, 2 and 3 at servers 0, 1 and 2.
fn nodes() -> Vec<(NodeId, Address)> {
    (1..=3).map(|node| (NodeId(node), address(node))).collect()
}

/// Ranges 10 and 11, bounded at "m", on shards 0 and 1.
fn map(version: u64, leaders: [Option<u64>; 2]) -> RangeCache {
    let range = |range: u64, start: &[u8], end: Option<&[u8]>, shard, leader: Option<u64>| RangeInfo {
        range: RangeId(range),
        span: Span::new(start, end),
        shard: ShardId(shard),
        generation: 1,
        leader: leader.map(NodeId),
        nodes: Vec::new(),
    };
    let ranges = vec![
        range(10, b"", Some(b"m"), 0, leaders[0]),
        range(11, b"m", None, 1, leaders[1]),
    ];
    RangeCache::partial(version, ranges).unwrap()
}

fn known(leaders: [Option<u64>; 2]) -> Routing {
    let mut routing = Routing::new(&[address(1), address(2), address(3)]);
    routing.map_seen(ServerId(0), map(5, leaders), nodes(), Duration::ZERO);
    routing
}

/// Where a new call for `key` would go.
fn goes(routing: &Routing, key: &str, now: Duration) -> (usize, u16) {
    let target = routing.aim(Route::Key(key.as_bytes()), &mut Course::default(), now);
    (target.server.0, target.shard.0)
}

fn refuse(
    routing: &mut Routing,
    course: &mut Course,
    target: &Target,
    leader: Option<u64>,
    now: Duration,
) -> Turn {
    routing.refused(target, target.range, leader.map(NodeId), course, now)
}

#[test]
fn a_server_that_is_alone_is_asked_for_everything() {
    let mut routing = Routing::new(&[address(1)]);
    let mut course = Course::default();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(
        (target.server, target.shard, target.is_news),
        (ServerId(0), ShardId(0), false)
    );
    routing.failed(ServerId(0), Trouble::Broke, MS);
    assert_eq!(routing.elsewhere(&mut course, MS), Turn::Pause);
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!((target.server, target.is_news), (ServerId(0), true));
    assert!(!routing.answered(&target));
    routing.map_seen(ServerId(0), map(1, [None, None]), Vec::new(), MS);
    assert_eq!(goes(&routing, "z", MS), (0, 1));
    assert_eq!((routing.servers(), routing.maps_seen()), (1, 1));
}

#[test]
fn the_map_says_who_leads_and_refusals_correct_it() {
    let mut routing = known([Some(2), None]);
    assert_eq!(goes(&routing, "a", MS), (1, 0));
    assert_eq!(goes(&routing, "z", MS), (0, 1), "home, when nobody knows");
    let mut course = Course::default();
    let target = routing.aim(Route::Before(None), &mut course, MS);
    assert_eq!(
        refuse(&mut routing, &mut course, &target, Some(3), MS),
        Turn::AtOnce
    );
    let next = routing.aim(Route::Before(None), &mut course, MS);
    assert_eq!((next.server, next.is_news), (ServerId(2), false));
    assert_eq!(goes(&routing, "z", MS), (2, 1));
    // A map that still says otherwise does not undo what was seen; a range that is gone is forgotten.
    routing.map_seen(ServerId(0), map(6, [Some(2), Some(1)]), nodes(), MS);
    assert_eq!(goes(&routing, "z", MS), (2, 1));
    // Who answers, leads.
    let mut course = Course::default();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(refuse(&mut routing, &mut course, &target, None, MS), Turn::Pause);
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!((target.server, target.is_news), (ServerId(0), true));
    routing.answered(&target);
    assert_eq!(goes(&routing, "a", MS), (0, 0));
}

#[test]
fn a_hint_goes_for_the_call_even_where_the_map_has_another_range() {
    let mut routing = known([Some(1), Some(1)]);
    let mut course = Course::default();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    // A split that home has not heard of.
    let turn = routing.refused(&target, Some(RangeId(99)), Some(NodeId(2)), &mut course, MS);
    assert_eq!(turn, Turn::AtOnce);
    assert!(routing.is_news_of_range(&target, Some(RangeId(99))));
    assert!(!routing.is_news_of_range(&target, Some(RangeId(10))));
    assert_eq!(routing.aim(Route::Key(b"a"), &mut course, MS).server, ServerId(1));
}

#[test]
fn nodes_that_point_at_each_other_cause_pauses() {
    let mut routing = known([Some(1), None]);
    let mut course = Course::default();
    let mut turns = Vec::new();
    for _ in 0..6 {
        let target = routing.aim(Route::Key(b"a"), &mut course, MS);
        let other = if target.server == ServerId(0) { 2 } else { 1 };
        turns.push(refuse(&mut routing, &mut course, &target, Some(other), MS));
    }
    let pauses = turns.iter().filter(|turn| **turn == Turn::Pause).count();
    assert_eq!((turns[0], pauses), (Turn::AtOnce, 3), "{turns:?}");
    // A node that names itself and refuses all the same says nothing.
    let mut course = Course::default();
    let target = routing.aim(HOME, &mut course, MS);
    assert_eq!(
        refuse(&mut routing, &mut course, &target, Some(1), MS),
        Turn::Pause
    );
    assert_ne!(routing.aim(HOME, &mut course, MS).server, target.server);
}

#[test]
fn without_a_leader_every_server_is_asked_in_turn() {
    let mut routing = known([None, None]);
    let mut course = Course::default();
    let mut asked = Vec::new();
    for _ in 0..6 {
        let target = routing.aim(Route::Key(b"a"), &mut course, MS);
        asked.push(target.server.0);
        assert_eq!(refuse(&mut routing, &mut course, &target, None, MS), Turn::Pause);
    }
    assert_eq!(asked, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn an_unknown_leader_is_looked_up() {
    let mut routing = Routing::new(&[address(1)]);
    let mut course = Course::default();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    let turn = refuse(&mut routing, &mut course, &target, Some(2), MS);
    assert_eq!(turn, Turn::Learn(NodeId(2)));
    assert!(!routing.knows(NodeId(2)));
    routing.map_seen(ServerId(0), map(1, [None, None]), nodes(), MS);
    assert!(routing.knows(NodeId(2)));
    assert_eq!(
        refuse(&mut routing, &mut course, &target, Some(2), MS),
        Turn::AtOnce
    );
    assert_eq!(routing.aim(Route::Key(b"a"), &mut course, MS).server, ServerId(1));
    // A server known by another name of the same node is not added again.
    let mut routing = Routing::new(&[address(7)]);
    assert_eq!(routing.identified(ServerId(0), NodeId(1), 9), Ok(()));
    routing.map_seen(ServerId(0), map(1, [None, None]), nodes(), MS);
    assert_eq!(routing.servers(), 3);
}

#[test]
fn a_failed_server_is_avoided_for_a_while_that_grows() {
    let mut routing = known([Some(2), None]);
    let mut now = Duration::ZERO;
    for length in [1, 2, 4, 5, 5].map(Duration::from_secs) {
        assert!(
            !routing.failed(ServerId(1), Trouble::Broke, now),
            "it is not home"
        );
        // Calls that failed with it do not make it longer.
        routing.failed(ServerId(1), Trouble::Broke, now + MS);
        assert_eq!(goes(&routing, "a", now), (0, 0));
        let mut course = Course::default();
        let target = routing.aim(Route::Key(b"a"), &mut course, now);
        // What broke is tried again when others name it, though not at once.
        assert_eq!(
            refuse(&mut routing, &mut course, &target, Some(2), now),
            Turn::Pause
        );
        assert_eq!(
            routing.aim(Route::Key(b"a"), &mut course, now).server,
            ServerId(1)
        );
        let mut course = Course::default();
        let target = routing.aim(HOME, &mut course, now);
        assert_eq!(
            refuse(&mut routing, &mut course, &target, Some(2), now + length - MS),
            Turn::Pause
        );
        assert_eq!(
            refuse(&mut routing, &mut course, &target, Some(2), now + length),
            Turn::AtOnce
        );
        now += length;
    }
    let mut course = Course {
        next: Some(ServerId(1)),
        ..Course::default()
    };
    let target = routing.aim(HOME, &mut course, now);
    assert!(target.is_news);
    routing.answered(&target);
    routing.failed(ServerId(1), Trouble::Broke, now);
    assert_eq!(
        routing.avoided(ServerId(1), now + Duration::from_secs(1)),
        None,
        "short again"
    );
}

#[test]
fn a_silent_server_is_not_waited_for_again_because_others_name_it() {
    let mut routing = known([Some(2), Some(2)]);
    let mut course = Course::default();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(target.server, ServerId(1));
    routing.failed(ServerId(1), Trouble::Silent, MS);
    assert_eq!(routing.elsewhere(&mut course, MS), Turn::AtOnce);
    assert_eq!(goes(&routing, "z", MS), (0, 1), "what it led is forgotten");
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(target.server, ServerId(0));
    let silent = Turn::Probe(ServerId(1));
    assert_eq!(refuse(&mut routing, &mut course, &target, Some(2), MS), silent);
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(target.server, ServerId(2));
    assert_eq!(refuse(&mut routing, &mut course, &target, Some(2), MS), silent);
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(target.server, ServerId(0), "round again");
    // It says hello: now it is believed.
    assert!(!routing.is_up(ServerId(1)));
    assert_eq!(
        refuse(&mut routing, &mut course, &target, Some(2), MS),
        Turn::AtOnce
    );
}

#[test]
fn a_slow_server_gets_more_time_within_the_call() {
    let mut course = Course::default();
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(course.allowance(ServerId(1), 500 * MS).as_millis());
        course.unanswered(ServerId(1));
    }
    assert_eq!(seen, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
    assert_eq!(course.allowance(ServerId(0), 500 * MS), 500 * MS);
}

#[test]
fn home_moves_when_it_fails_and_the_next_ones_map_counts() {
    let mut routing = known([Some(1), Some(3)]);
    let home_version = |routing: &Routing| routing.map_version(routing.home());
    assert_eq!((routing.home(), home_version(&routing)), (ServerId(0), 5));
    assert!(routing.failed(ServerId(0), Trouble::Silent, MS));
    assert_eq!((routing.home(), home_version(&routing)), (ServerId(1), 0));
    assert_eq!(goes(&routing, "z", MS), (2, 1), "the old map still helps");
    routing.map_seen(ServerId(1), map(2, [Some(3), None]), nodes(), MS);
    assert_eq!((home_version(&routing), goes(&routing, "a", MS)), (2, (2, 0)));
    assert_eq!(goes(&routing, "z", MS), (2, 1), "what was known of leaders stays");
    routing.map_seen(ServerId(1), map(1, [Some(1), None]), nodes(), MS);
    assert_eq!(home_version(&routing), 2, "of one server, the newer counts");
}

/// Parts of the key space as one node knows them: number, bounds, generation, shard and leader.
fn part(version: u64, ranges: &[(u64, &str, &str, u64, u16, u64)]) -> RangeCache {
    let info =
        |(range, start, end, generation, shard, leader): &(u64, &str, &str, u64, u16, u64)| RangeInfo {
            range: RangeId(*range),
            span: Span::new(start.as_bytes(), (!end.is_empty()).then_some(end.as_bytes())),
            shard: ShardId(*shard),
            generation: *generation,
            leader: Some(NodeId(*leader)),
            nodes: Vec::new(),
        };
    RangeCache::partial(version, ranges.iter().map(info).collect()).unwrap()
}

#[test]
fn maps_of_others_fill_the_gaps_of_homes_and_each_says_on_which_shard_its_replica_is() {
    let mut routing = Routing::new(&[address(1), address(2), address(3)]);
    assert_eq!(routing.next_to_tell(&[], MS), Some(ServerId(0)));
    routing.map_seen(ServerId(0), part(5, &[(10, "", "g", 1, 3, 2)]), nodes(), MS);
    for (server, node) in [(0, 1), (1, 2), (2, 3)] {
        routing.identified(ServerId(server), NodeId(node), 7).unwrap();
    }
    let target = routing.aim(Route::Key(b"h"), &mut Course::default(), MS);
    assert!(target.is_unmapped && routing.is_news_of_range(&target, None));
    // Others are asked until no gap is left.
    let mut asked = vec![ServerId(0)];
    assert_eq!(routing.next_to_tell(&asked, MS), Some(ServerId(1)));
    let second = part(3, &[(10, "", "g", 1, 1, 2), (11, "g", "p", 1, 2, 3)]);
    routing.map_seen(ServerId(1), second, nodes(), MS);
    asked.push(ServerId(1));
    assert_eq!(goes(&routing, "a", MS), (1, 1), "on the shard that node 2 says");
    assert_eq!(goes(&routing, "h", MS).0, 2);
    assert_eq!(routing.next_to_tell(&asked, MS), Some(ServerId(2)));
    let third = part(8, &[(11, "g", "p", 1, 0, 3), (12, "p", "", 1, 4, 3)]);
    routing.map_seen(ServerId(2), third, nodes(), MS);
    asked.push(ServerId(2));
    assert_eq!(["h", "z"].map(|key| goes(&routing, key, MS)), [(2, 0), (2, 4)]);
    assert_eq!(routing.next_to_tell(&asked, MS), None);
    assert_eq!(routing.next_to_tell(&asked[..1], MS), None, "there is no gap");
    // Who wants to see all ranges hears of home's as home knows them.
    let shards = routing.ranges_of(&asked).into_iter().map(|info| info.shard.0);
    assert_eq!(shards.collect::<Vec<_>>(), [3, 0, 4]);
    assert_eq!(routing.next_beside_home(&asked[..1], MS), Some(ServerId(1)));
    assert_eq!(routing.next_beside_home(&asked, MS), None);
    assert_eq!(
        known([None, None]).next_beside_home(&[], MS),
        None,
        "home knows all"
    );
    // One that passes on what it gets has an old map here; nobody else is asked.
    routing.map_is_old(ServerId(2));
    assert_eq!(routing.next_to_tell(&asked[..1], MS), Some(ServerId(2)));
    routing.map_seen(ServerId(2), part(9, &[(12, "p", "", 1, 2, 3)]), nodes(), MS);
    assert_eq!(routing.next_to_tell(&asked[..1], MS), None);
    assert_eq!(goes(&routing, "z", MS), (2, 2));
    // Who is avoided is not asked.
    routing.map_is_old(ServerId(1));
    routing.failed(ServerId(1), Trouble::Broke, MS);
    assert_eq!(routing.next_to_tell(&asked[..1], MS), None);
}

#[test]
fn a_home_that_has_not_heard_of_a_split_does_not_hide_it() {
    let mut routing = Routing::new(&[address(1), address(2), address(3)]);
    routing.map_seen(ServerId(0), part(5, &[(10, "", "", 1, 0, 3)]), nodes(), MS);
    let target = routing.aim(Route::Key(b"z"), &mut Course::default(), MS);
    assert_eq!((target.server, target.range), (ServerId(2), Some(RangeId(10))));
    // What was sent there has keys of several ranges.
    routing.map_is_old(target.server);
    assert_eq!(routing.next_to_tell(&[], MS), Some(ServerId(0)));
    assert_eq!(routing.next_to_tell(&[ServerId(0)], MS), Some(ServerId(2)));
    let newer = part(9, &[(10, "", "m", 2, 0, 3), (11, "m", "", 2, 0, 3)]);
    routing.map_seen(ServerId(2), newer, nodes(), MS);
    let range = |routing: &Routing| routing.aim(Route::Key(b"z"), &mut Course::default(), MS).range;
    assert_eq!(range(&routing), Some(RangeId(11)));
    routing.map_seen(ServerId(0), part(6, &[(10, "", "", 1, 0, 3)]), nodes(), MS);
    assert_eq!(range(&routing), Some(RangeId(11)));
}

#[test]
fn who_fails_is_not_believed_that_it_leads() {
    let mut routing = Routing::new(&[address(1), address(2), address(3)]);
    for (server, node) in [(0, 1), (1, 2), (2, 3)] {
        routing.identified(ServerId(server), NodeId(node), 7).unwrap();
    }
    routing.map_seen(ServerId(2), part(9, &[(10, "", "", 1, 0, 3)]), nodes(), MS);
    routing.failed(ServerId(2), Trouble::Broke, MS);
    routing.map_seen(ServerId(0), part(5, &[(10, "", "", 1, 0, 2)]), nodes(), MS);
    assert_eq!(goes(&routing, "a", MS).0, 1);
}

#[test]
fn who_has_no_replica_says_so_and_another_one_is_asked_at_once() {
    let mut routing = known([Some(1), None]);
    let mut course = Course::default();
    let mut turns = Vec::new();
    for _ in 0..3 {
        let target = routing.aim(Route::Key(b"a"), &mut course, MS);
        assert!(routing.is_news_of_range(&target, None));
        turns.push(routing.refused(&target, None, None, &mut course, MS));
    }
    assert_eq!(turns, [Turn::AtOnce, Turn::AtOnce, Turn::Pause]);
}

#[test]
fn when_all_failed_the_one_whose_time_ends_first_is_asked_and_whoever_answers_is_home() {
    let mut routing = known([None, None]);
    for (server, ms) in [(2, 10), (0, 20), (1, 30)] {
        routing.failed(ServerId(server), Trouble::Broke, ms * MS);
    }
    let mut course = Course::default();
    assert_eq!(routing.elsewhere(&mut course, 40 * MS), Turn::Pause);
    let target = routing.aim(HOME, &mut course, 40 * MS);
    assert_eq!(target.server, ServerId(2));
    assert!(routing.answered(&target));
    assert_eq!(routing.home(), ServerId(2));
}

#[test]
fn a_server_of_another_cluster_is_found_out() {
    let mut routing = known([None, None]);
    assert_eq!(routing.identified(ServerId(0), NodeId(1), 7), Ok(()));
    assert_eq!(routing.identified(ServerId(1), NodeId(2), 8), Err(7));
    assert!(!routing.knows(NodeId(2)));
    assert_eq!(routing.identified(ServerId(1), NodeId(2), 7), Ok(()));
    assert!(routing.knows(NodeId(2)));
}

#[test]
fn the_nearest_replica_is_asked_for_the_past_and_then_the_leader() {
    let mut routing = known([Some(1), Some(1)]);
    let mut with_nodes = map(6, [Some(1), Some(1)]).ranges().to_vec();
    with_nodes[0].nodes = vec![NodeId(1), NodeId(2), NodeId(3)];
    let with_nodes = RangeCache::partial(7, with_nodes).unwrap();
    routing.map_seen(ServerId(0), with_nodes, nodes(), MS);
    let near = || Course::new(true);
    routing.measured(ServerId(0), MS * 50);
    routing.measured(ServerId(1), MS * 2);
    let mut course = near();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!((target.server, target.is_news), (ServerId(1), false));
    assert_eq!(course.unknown, [ServerId(2)], "it may be nearer");
    routing.measured(ServerId(2), MS);
    let mut course = near();
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!((target.server, course.unknown.len()), (ServerId(2), 0));
    // It is too far behind: the leader can always show it.
    assert_eq!(
        refuse(&mut routing, &mut course, &target, Some(1), MS),
        Turn::AtOnce
    );
    let target = routing.aim(Route::Key(b"a"), &mut course, MS);
    assert_eq!(target.server, ServerId(0));
    assert!(!routing.answered(&target));
    // One that is down is passed over.
    routing.failed(ServerId(2), Trouble::Silent, MS);
    assert_eq!(routing.aim(Route::Key(b"a"), &mut near(), MS).server, ServerId(1));
    // Where nobody says who has replicas, the leader is asked.
    assert_eq!(routing.aim(Route::Key(b"z"), &mut near(), MS).server, ServerId(0));
    assert_eq!(goes(&routing, "a", MS), (0, 0));
}

#[test]
fn a_distance_follows_short_times_at_once_and_long_ones_slowly() {
    let mut routing = known([None, None]);
    let server = ServerId(1);
    assert!(routing.is_news_of_distance(server, MS));
    routing.measured(server, MS * 10);
    assert!(!routing.is_news_of_distance(server, MS * 11));
    routing.measured(server, MS * 90);
    assert!(routing.is_news_of_distance(server, MS * 8));
    assert!(!routing.is_news_of_distance(server, MS * 20));
    routing.measured(server, MS);
    assert!(routing.is_news_of_distance(server, MS * 2));
}
