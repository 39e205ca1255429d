//! What `start` is told of placement: whether the cluster looks after its replicas, how, and where this node is.

use crate::args::parse_duration;
use crate::command::start::parse_size;
use crate::error::{CliError, Exit};
use clap::{Args, ValueEnum};
use node::{Cluster, Locality, Placement};
use std::time::Duration;
use wire::Code;

/// The options of placement. All nodes of a cluster are to be started with the same ones, save for the locality.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Placement, the same on all nodes but --locality")]
pub(crate) struct PlacementArgs {
    /// Whether the cluster looks after its replicas by itself, or leaves them to `range place` and `node drain`
    #[arg(long, value_name = "on|off", env = "CORELANE_PLACEMENT", default_value = "on")]
    placement: Switch,
    /// Replicas of each range, as far as there are nodes
    #[arg(long, value_name = "N", env = "CORELANE_REPLICAS", default_value_t = 3)]
    replicas: u32,
    /// How long a node is gone before its replicas are replaced: 5m unless given
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    replace_after: Option<Duration>,
    /// How long a node has more to do than others before it is relieved: 2m unless given
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    balance_after: Option<Duration>,
    /// Bytes beyond which a range is split, for example 1GiB: 512MiB unless given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_size: Option<u64>,
    /// Where this node is, the widest first: region=eu,zone=a. Replicas of a range are spread over such domains
    #[arg(long, value_name = "NAME=VALUE,…", env = "CORELANE_LOCALITY", value_parser = parse_locality, default_value = "")]
    locality: Locality,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// The longest text of a locality.
const LOCALITY_BYTES_MAX: usize = 256;

fn parse_locality(text: &str) -> Result<Locality, String> {
    let parsed =
        Locality::parse(text).filter(|locality| locality.0.len() <= 8 && text.len() <= LOCALITY_BYTES_MAX);
    parsed.ok_or_else(|| {
        format!(
            "write NAME=VALUE,…, at most 8 of them and {LOCALITY_BYTES_MAX} bytes, the widest first: region=eu,zone=a"
        )
    })
}

impl PlacementArgs {
    /// Tells a node of a cluster.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub(crate) fn apply(&self, cluster: &mut Cluster) -> Result<(), CliError> {
        cluster.locality = self.locality.clone();
        let mut placement = Placement {
            replicas: self.replicas,
            ..Placement::default()
        };
        placement.split_bytes = self.split_size.unwrap_or(placement.split_bytes);
        if let Some(time) = self.replace_after {
            placement = placement.replace_after(time);
        }
        if let Some(time) = self.balance_after {
            placement = placement.balance_after(time);
        }
        placement.check().map_err(|what| {
            CliError::new(Code::ConfigurationInvalid.number(), Exit::Config, what)
                .help("see --replicas and --replace-after in `corelane start --help`")
        })?;
        cluster.placement = (self.placement == Switch::On).then_some(placement);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_are_checked() {
        assert_eq!(
            parse_locality("region=eu,zone=a").unwrap().to_string(),
            "region=eu,zone=a"
        );
        assert_eq!(parse_locality("").unwrap(), Locality::default());
        for wrong in [
            "eu",
            "region=",
            "=a",
            &"a=b,".repeat(9),
            &format!("a={}", "b".repeat(300)),
        ] {
            assert!(
                parse_locality(wrong).unwrap_err().contains("region=eu"),
                "{wrong}"
            );
        }
    }
}
