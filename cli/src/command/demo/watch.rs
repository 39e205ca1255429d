//! What the nodes say of themselves, asked a few times a second.

use crate::command::demo::Stage;
use base::NodeId;
use corelane::{Db, Options};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(250);
/// A node that says nothing for so long is shown as silent.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a node said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) leads: u64,
    pub(crate) replicas: u64,
    /// Nodes all of whose shards support it.
    pub(crate) supported_by: Vec<u64>,
    /// `ok`, or what is wrong.
    pub(crate) verdict: String,
    /// `ok`, `slow` or `full`.
    pub(crate) disk: String,
}

/// Asks a node until the bank closes.
pub(crate) async fn run(stage: Arc<Stage>, id: NodeId, address: SocketAddr) {
    let mut db = None;
    while stage.is_open() {
        let seen = tokio::time::timeout(PATIENCE, ask(&mut db, id, address)).await;
        let seen = seen.ok().flatten();
        if seen.is_none() {
            // A client that cannot reach its node goes to another one, and stays there.
            db = None;
        }
        stage.saw(id, seen);
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(db: &mut Option<Db>, id: NodeId, address: SocketAddr) -> Option<Seen> {
    if db.is_none() {
        let options = Options {
            app: "corelane demo".to_owned(),
            deadline: PATIENCE,
            map_at_connect: false,
            ..Options::default()
        };
        let made = corelane::connect_with(&address.to_string(), options).await;
        *db = Some(made.ok()?);
    }
    let text = db.as_ref()?.status().await.ok()?;
    seen(id, &serde_json::from_str(&text).ok()?)
}

/// Reads a status, if it is that node's.
fn seen(id: NodeId, status: &Value) -> Option<Seen> {
    if status["node"].as_u64() != Some(id.0) {
        return None;
    }
    let shards = status["shards"].as_array()?.len() as u64;
    let supporters = status["nodes"].as_array().into_iter().flatten();
    let supported_by = supporters
        .filter(|node| node["supported_by_shards"].as_u64() == Some(shards))
        .filter_map(|node| node["node"].as_u64());
    Some(Seen {
        leads: status["ranges"]["leads"].as_u64()?,
        replicas: status["ranges"]["replicas"].as_u64()?,
        supported_by: supported_by.collect(),
        verdict: status["verdict"].as_str()?.to_owned(),
        disk: status["disk"]["state"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let status = serde_json::json!({
            "verdict": "ok", "node": 2, "disk": {"state": "slow"}, "shards": [{}, {}], "ranges": {"leads": 1, "replicas": 4},
            "nodes": [{"node": 1, "supported_by_shards": 2}, {"node": 3, "supported_by_shards": 1}],
        });
        let seen_of_2 = seen(NodeId(2), &status).unwrap();
        assert_eq!((seen_of_2.leads, seen_of_2.replicas), (1, 4));
        assert_eq!((&*seen_of_2.disk, seen_of_2.supported_by), ("slow", vec![1]));
        assert_eq!(seen(NodeId(1), &status), None, "another node answered");
    }
}
