//! Reports and orders, to and from the wire. Pure.

use super::ledger::{Led, Piece, Seen, Word};
use super::overview::{Facts, Order, Report, Todo};
use crate::cluster::is_node;
use crate::gauge::Ailment;
use crate::members::REPLICAS_MAX;
use crate::refusal::check_key;
use base::key::Span;
use base::{NodeId, RangeId};
use placement::{LoadSplit, Locality};
use wire::peer::{self, Placing, PlacingStep};

/// Makes a report of a piece of the ledger and hands it to `send`.
pub(crate) fn with_report<R>(
    term: u64,
    number: u64,
    facts: &Facts,
    piece: &Piece<'_>,
    words: u64,
    send: impl FnOnce(&Placing<'_>) -> R,
) -> R {
    let replica = |seen: &Seen| peer::ReplicaReport {
        node: seen.node.0,
        votes: seen.votes,
        up_to_date: seen.up_to_date,
    };
    let of = |word: &&Word| {
        let seen = word.led.iter().flat_map(|led| &led.replicas);
        seen.map(replica).collect::<Vec<_>>()
    };
    let replicas: Vec<_> = piece.words.iter().map(of).collect();
    let ranges: Vec<_> = piece
        .words
        .iter()
        .zip(&replicas)
        .map(|(word, replicas)| peer::RangeReport {
            range: word.range.0,
            pinned: word.pinned,
            led: word.led.as_ref().map(|led| led_to_wire(led, replicas)),
        })
        .collect();
    let locality = facts.locality.to_string();
    let node = peer::NodeReport {
        locality: &locality,
        shards: facts.shards,
        used_bytes: facts.used_bytes,
        free_bytes: facts.free_bytes,
        reads: facts.reads,
        writes: facts.writes,
        ailing: facts.ailing.number(),
    };
    let step = PlacingStep::Report {
        number,
        session: piece.session,
        after: piece.after,
        until: piece.until,
        last: piece.last,
        node,
        ranges: &ranges,
        words,
    };
    send(&Placing { term, step })
}

fn led_to_wire<'a>(led: &'a Led, replicas: &'a [peer::ReplicaReport]) -> peer::LedReport<'a> {
    let hot = match &led.hot {
        LoadSplit::Unknown => None,
        LoadSplit::At { key, left_permille } => Some(peer::HotReport {
            key,
            permille: *left_permille,
            alone: false,
        }),
        LoadSplit::OneKey { key, permille } => Some(peer::HotReport {
            key,
            permille: *permille,
            alone: true,
        }),
    };
    peer::LedReport {
        term: led.term,
        generation: led.generation,
        start: &led.span.start,
        end: led.span.end.as_deref(),
        replicas,
        joint: led.joint,
        order: led.order,
        bytes: led.bytes,
        reads: led.reads,
        writes: led.writes,
        middle: led.middle.as_deref(),
        hot,
    }
}

/// The report that came; `None` when no node says such a thing.
pub(crate) fn report_from_wire(step: &peer::ArchivedPlacingStep<'static>) -> Option<Report> {
    let peer::ArchivedPlacingStep::Report {
        number,
        session,
        after,
        until,
        last,
        node,
        ranges,
        ..
    } = step
    else {
        return None;
    };
    let facts = Facts {
        locality: Locality::parse(&node.locality)?,
        shards: node.shards.to_native(),
        used_bytes: node.used_bytes.to_native(),
        free_bytes: node.free_bytes.as_ref().map(|bytes| bytes.to_native()),
        reads: node.reads.to_native(),
        writes: node.writes.to_native(),
        ailing: Ailment::from_number(node.ailing)?,
    };
    let words = ranges.iter().map(word_from_wire).collect::<Option<_>>()?;
    Some(Report {
        number: number.to_native(),
        session: session.to_native(),
        after: after.to_native(),
        until: until.to_native(),
        last: last.to_native(),
        facts,
        words,
    })
}

fn word_from_wire(report: &peer::ArchivedRangeReport<'static>) -> Option<Word> {
    let led = match report.led.as_ref() {
        Some(led) => Some(led_from_wire(led)?),
        None => None,
    };
    Some(Word {
        range: RangeId(report.range.to_native()),
        pinned: report.pinned,
        led,
    })
}

fn led_from_wire(led: &peer::ArchivedLedReport<'static>) -> Option<Led> {
    let span = Span::new(&led.start, led.end.as_deref());
    let is_node = led
        .replicas
        .iter()
        .all(|replica| is_node(NodeId(replica.node.to_native())));
    // While replicas are exchanged a range has twice as many.
    if span.is_empty() || led.replicas.len() > 2 * REPLICAS_MAX || !is_node {
        return None;
    }
    let seen = |replica: &peer::ArchivedReplicaReport| Seen {
        node: NodeId(replica.node.to_native()),
        votes: replica.votes,
        up_to_date: replica.up_to_date,
    };
    let hot = |hot: &peer::ArchivedHotReport<'static>| {
        let (key, permille) = (Box::from(&*hot.key), hot.permille.to_native());
        if hot.alone {
            LoadSplit::OneKey { key, permille }
        } else {
            let left_permille = permille;
            LoadSplit::At { key, left_permille }
        }
    };
    Some(Led {
        term: led.term.to_native(),
        generation: led.generation.to_native(),
        span,
        replicas: led.replicas.iter().map(seen).collect(),
        joint: led.joint,
        order: led.order.to_native(),
        bytes: led.bytes.to_native(),
        reads: led.reads.to_native(),
        writes: led.writes.to_native(),
        middle: led.middle.as_deref().map(Box::from),
        hot: led.hot.as_ref().map_or(LoadSplit::Unknown, hot),
    })
}

/// Makes a message of an order and hands it to `send`.
pub(crate) fn with_order<R>(term: u64, order: &Order, send: impl FnOnce(&Placing<'_>) -> R) -> R {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let voters = numbers(&order.voters);
    let nodes = match &order.todo {
        Todo::Replicas(nodes) => numbers(nodes),
        Todo::Leader(_) | Todo::Split(_) | Todo::Merge(_) => Vec::new(),
    };
    let todo = match &order.todo {
        Todo::Replicas(_) => peer::Todo::Replicas { nodes: &nodes },
        Todo::Leader(node) => peer::Todo::Leader { node: node.0 },
        Todo::Split(key) => peer::Todo::Split { key },
        Todo::Merge(right) => peer::Todo::Merge { right: right.0 },
    };
    let step = PlacingStep::Order {
        number: order.number,
        range: order.range.0,
        generation: order.generation,
        voters: &voters,
        todo,
    };
    send(&Placing { term, step })
}

/// The order that came; `None` for another message, or when no placer gives such an order.
pub(crate) fn order_from_wire(step: &peer::ArchivedPlacingStep<'static>) -> Option<Order> {
    let peer::ArchivedPlacingStep::Order {
        number,
        range,
        generation,
        voters,
        todo,
    } = step
    else {
        return None;
    };
    let todo = match todo {
        peer::ArchivedTodo::Replicas { nodes } => {
            let nodes = nodes_from_wire(nodes.iter().map(|node| node.to_native()))?;
            Todo::Replicas((!nodes.is_empty()).then_some(nodes)?)
        }
        peer::ArchivedTodo::Leader { node } => {
            Todo::Leader(Some(NodeId(node.to_native())).filter(|node| is_node(*node))?)
        }
        peer::ArchivedTodo::Split { key } => {
            check_key(key).ok()?;
            Todo::Split(Box::from(&**key))
        }
        peer::ArchivedTodo::Merge { right } => Todo::Merge(RangeId(right.to_native())),
    };
    Some(Order {
        number: Some(number.to_native()).filter(|number| *number > 0)?,
        range: RangeId(range.to_native()),
        generation: generation.to_native(),
        voters: nodes_from_wire(voters.iter().map(|node| node.to_native()))?,
        todo,
    })
}

/// Numbers of nodes, ascending and each once, as orders have them.
fn nodes_from_wire(numbers: impl ExactSizeIterator<Item = u64>) -> Option<Vec<NodeId>> {
    if numbers.len() > REPLICAS_MAX {
        return None;
    }
    let nodes: Vec<_> = numbers.map(NodeId).collect();
    let is_sound = nodes.iter().all(|node| is_node(*node)) && nodes.is_sorted_by(|one, next| one < next);
    is_sound.then_some(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_nodes_have_are_taken_from_orders() {
        let from = |numbers: &[u64]| nodes_from_wire(numbers.iter().copied());
        assert_eq!(
            from(&[1, 2, 1023]),
            Some(vec![NodeId(1), NodeId(2), NodeId(1023)])
        );
        let many: Vec<u64> = (1..=REPLICAS_MAX as u64 + 1).collect();
        for wrong in [&[0, 1][..], &[1024], &[1 << 32], &[2, 2], &[3, 1], &many] {
            assert_eq!(from(wrong), None, "{wrong:?}");
        }
    }
}
