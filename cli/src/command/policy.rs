//! `corelane policy set|ls|show|rm`: what a cluster is to do with the keys of a prefix.

use crate::args::Global;
use crate::command::start::parse_size;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, Output, print, shown, table};
use crate::session::Session;
use clap::{Args, Subcommand};
use corelane::{Policy, PolicyChange};
use serde_json::Value;
use std::ffi::OsString;
use wire::Code;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane policy set eu/ --require +region=eu          the replicas of keys that begin with eu/ are in Europe
  corelane policy set eu/ --require +region=eu --require +zone=a:1 --prefer-leader +zone=a
  corelane policy set log/ --replicas 1 --split-size 1GiB
  corelane policy set order/ --together=shop            the ranges of order/ are led by one node,
  corelane policy set cart/ --together=shop             and those of cart/ by the same
  corelane policy set '' --replicas 5                   all keys that no other policy is for
  corelane policy ls
  corelane policy show eu/42                            which policy decides for this key
  corelane policy rm eu/

The longest prefix of a key decides, alone: a policy for eu/de/ needs its own --require. A set replaces what was set for that prefix
before; --replicas and --split-size that are not given are those of the policy of all keys. Replicas move afterwards, in the course
of time: `corelane range explain ID` says what is still to be done, and why. Localities are given to nodes with `start --locality`.";

/// Set and list policies by key prefix.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say what is wished for the keys that begin with PREFIX, instead of what was set for it before
    Set(SetArgs),
    /// List the policies: prefix, replicas, split size, constraints, lease preferences, group
    Ls,
    /// Say which policy decides for a key
    Show {
        /// The key
        key: OsString,
    },
    /// Remove the policy of PREFIX: that of a shorter prefix decides then, or what the nodes were started with
    Rm {
        /// The prefix, as `policy ls` shows it; '' for the policy of all keys
        prefix: OsString,
    },
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The first bytes of the keys; '' for all keys
    prefix: OsString,
    /// Replicas of each range
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    replicas: Option<u32>,
    /// Bytes beyond which a range is split, for example 1GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_size: Option<u64>,
    /// Where replicas may be: +region=eu (all of them), -zone=b (none), +region=eu:2 (at least two); may be given several times
    #[arg(
        long,
        value_name = "CONSTRAINT",
        allow_hyphen_values = true,
        value_delimiter = ','
    )]
    require: Vec<String>,
    /// Where leaders are wished: +zone=a, or +region=eu,-zone=b (both); may be given several times, the best first
    #[arg(long, value_name = "CONSTRAINT,…", allow_hyphen_values = true)]
    prefer_leader: Vec<String>,
    /// The ranges are led by one node, with those of other policies that name the same GROUP; a group of their own unless given
    #[arg(long, value_name = "GROUP", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    together: Option<String>,
}

pub(crate) fn run(global: &Global, args: PolicyArgs) -> Outcome {
    match args.action {
        Action::Set(set) => say(global, set),
        Action::Ls => list(global),
        Action::Show { key } => show(global, key),
        Action::Rm { prefix } => remove(global, prefix),
    }
}

fn say(global: &Global, args: SetArgs) -> Outcome {
    let prefix = global.bytes(args.prefix)?;
    let preference = |text: &String| text.split(',').map(str::to_owned).collect();
    let own_group = || {
        let text = prefix.escape_ascii().to_string();
        if text.is_empty() { "all".to_owned() } else { text }
    };
    let policy = Policy {
        replicas: args.replicas,
        split_bytes: args.split_size,
        constraints: args.require,
        lease_preferences: args.prefer_leader.iter().map(preference).collect(),
        group: args
            .together
            .map(|name| if name.is_empty() { own_group() } else { name }),
    };
    let session = Session::open(global)?;
    let change = session.wait(session.db.set_policy(&prefix, &policy))?;
    let text = format!("{}: {}", named(global, &prefix), in_words(&policy));
    let text = match &change.before {
        Some(before) if *before != policy => format!("{text}\n  before: {}", in_words(before)),
        Some(_) | None => text,
    };
    report(global, &prefix, Some(&policy), &change, text)
}

fn remove(global: &Global, prefix: OsString) -> Outcome {
    let prefix = global.bytes(prefix)?;
    let session = Session::open(global)?;
    let change = session.wait(session.db.remove_policy(&prefix))?;
    let Some(before) = &change.before else {
        let what = format!("there is no policy of {}", named(global, &prefix));
        return Err(CliError::new(Code::InvalidRequest.number(), Exit::NotFound, what)
            .help("`corelane policy ls` lists the prefixes that have one"));
    };
    let text = format!(
        "{}: no policy any more\n  before: {}",
        named(global, &prefix),
        in_words(before)
    );
    report(global, &prefix, None, &change, text)
}

/// Prints what came of a change.
fn report(
    global: &Global,
    prefix: &[u8],
    policy: Option<&Policy>,
    change: &PolicyChange,
    mut text: String,
) -> Outcome {
    for doubt in &change.doubts {
        text += &format!("\n  warning: {doubt}");
    }
    let of = |policy: &Policy| fields(Object::new(), policy).build();
    let json = Object::new()
        .bytes("prefix", prefix, global.hex)
        .set("policy", policy.map_or(Value::Null, of))
        .set("before", change.before.as_ref().map_or(Value::Null, of))
        .set("warnings", change.doubts.clone())
        .build();
    print(global, text, &json)?;
    Ok(Exit::Ok)
}

fn list(global: &Global) -> Outcome {
    let session = Session::open(global)?;
    let policies = session.wait(session.db.policies())?;
    let has_all = policies.set.first().is_some_and(|(prefix, _)| prefix.is_empty());
    let first = (Vec::new(), policies.of(b"").1);
    let others = policies.set.into_iter().filter(|(prefix, _)| !prefix.is_empty());
    let all: Vec<_> = core::iter::once(first).chain(others).collect();
    if global.json {
        let mut out = Output::new();
        for (at, (prefix, policy)) in all.iter().enumerate() {
            let json = fields(Object::new().bytes("prefix", prefix, global.hex), policy);
            out.line(json.set("set", has_all || at > 0).build())?;
        }
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let rows = all.iter().map(|(prefix, policy)| {
        let or_all = |text: Option<String>| text.unwrap_or_else(|| "as all".to_owned());
        let preferences: Vec<_> = policy.lease_preferences.iter().map(|one| one.join(",")).collect();
        vec![
            named(global, prefix),
            or_all(policy.replicas.map(|count| count.to_string())),
            or_all(policy.split_bytes.map(size)),
            policy.constraints.join(" "),
            preferences.join(" "),
            policy.group.clone().unwrap_or_default(),
        ]
    });
    let columns = [
        "prefix",
        "replicas",
        "split size",
        "require",
        "prefer leader",
        "together",
    ];
    print(global, table(&columns, rows), &Value::Null)?;
    Ok(Exit::Ok)
}

fn show(global: &Global, key: OsString) -> Outcome {
    let key = global.bytes(key)?;
    let session = Session::open(global)?;
    let policies = session.wait(session.db.policies())?;
    let (prefix, policy) = policies.of(&key);
    let text = match prefix {
        Some(prefix) => format!("the policy of {}: {}", named(global, prefix), in_words(&policy)),
        None => format!(
            "no policy was set: {}, as the nodes were started",
            in_words(&policy)
        ),
    };
    let json = Object::new().bytes("key", &key, global.hex);
    let json = match prefix {
        Some(prefix) => json.bytes("prefix", prefix, global.hex),
        None => json.set("prefix", Value::Null),
    };
    print(global, text, &fields(json, &policy).build())?;
    Ok(Exit::Ok)
}

/// A prefix for people.
fn named(global: &Global, prefix: &[u8]) -> String {
    if prefix.is_empty() {
        "all keys".to_owned()
    } else {
        shown(global, prefix)
    }
}

fn fields(object: Object, policy: &Policy) -> Object {
    let preferences: Vec<_> = policy.lease_preferences.iter().map(|one| one.join(",")).collect();
    object
        .set("replicas", policy.replicas)
        .set("split_size", policy.split_bytes)
        .set("require", policy.constraints.clone())
        .set("prefer_leader", preferences)
        .set("together", policy.group.clone())
}

/// `1GiB`, or as many bytes as it takes.
fn size(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A policy in one line.
fn in_words(policy: &Policy) -> String {
    let mut parts = vec![match policy.replicas {
        Some(1) => "1 replica".to_owned(),
        Some(count) => format!("{count} replicas"),
        None => "replicas as of all keys".to_owned(),
    }];
    parts.extend(
        policy
            .split_bytes
            .map(|bytes| format!("split beyond {}", size(bytes))),
    );
    parts.extend(policy.constraints.iter().cloned());
    for (at, preference) in policy.lease_preferences.iter().enumerate() {
        let by = if at == 0 { "led in" } else { "else in" };
        parts.push(format!("{by} {}", preference.join(",")));
    }
    parts.extend(policy.group.iter().map(|group| format!("led together: {group}")));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_told_in_words() {
        let policy = Policy {
            replicas: Some(5),
            split_bytes: Some(3 << 20),
            constraints: vec!["+region=eu".to_owned(), "-zone=b".to_owned()],
            lease_preferences: vec![vec!["+zone=a".to_owned()], vec!["+zone=c".to_owned()]],
            group: Some("shop".to_owned()),
        };
        assert_eq!(
            in_words(&policy),
            "5 replicas, split beyond 3MiB, +region=eu, -zone=b, led in +zone=a, else in +zone=c, led together: shop"
        );
        assert_eq!(in_words(&Policy::default()), "replicas as of all keys");
        assert_eq!(size(1000), "1000");
    }
}
