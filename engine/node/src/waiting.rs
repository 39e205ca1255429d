//! Messages that their ring has no room for.
//!
//! Requests and replies are as many as connections may have open. Of what a shard says again and again the latest is enough, so that a
//! shard that hangs does not make another one's memory grow: one map, one outlook and one pulse wait at most.

use crate::message::ShardMessage;
use core::mem::discriminant;
use std::collections::VecDeque;

/// Puts a message behind those that wait, or in the place of one that it makes needless.
pub(crate) fn push<S>(waiting: &mut VecDeque<ShardMessage<S>>, message: ShardMessage<S>) {
    let is_again = |known: &ShardMessage<S>| discriminant(known) == discriminant(&message);
    if matches!(message, ShardMessage::Map(_)) {
        // A range must be on its way before a map says where it goes: so the later map comes later, too.
        waiting.retain(|known| !is_again(known));
    } else if matches!(message, ShardMessage::Outlook(_) | ShardMessage::Pulse)
        && let Some(at) = waiting.iter().position(is_again)
    {
        // What waits behind an outlook is from who knew it: the later one comes where the earlier one would have.
        waiting[at] = message;
        return;
    }
    waiting.push_back(message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlook::Outlook;
    use crate::range_map::RangeMap;
    use base::RangeId;
    use std::sync::Arc;

    fn text(message: &ShardMessage<()>) -> String {
        match message {
            ShardMessage::Map(map) => format!("map {}", map.version()),
            ShardMessage::Outlook(_) => "outlook".into(),
            ShardMessage::Pulse => "pulse".into(),
            ShardMessage::Removed { range } => format!("removed {range}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn of_what_is_said_again_the_latest_waits() {
        let mut waiting = VecDeque::new();
        for round in 1..4 {
            push(&mut waiting, ShardMessage::Pulse);
            push(
                &mut waiting,
                ShardMessage::Map(Arc::new(RangeMap::new(round, []))),
            );
            push(&mut waiting, ShardMessage::Outlook(Arc::new(Outlook::default())));
            let range = RangeId(round);
            push(&mut waiting, ShardMessage::Removed { range });
        }
        let texts: Vec<_> = waiting.iter().map(text).collect();
        let expected = [
            "pulse",
            "outlook",
            "removed r1",
            "removed r2",
            "map 3",
            "removed r3",
        ];
        assert_eq!(texts, expected);
    }
}
