//! What can be asked of a demonstration, one line each. Pure.

use crate::command::shell::parse::{self as shell, Line, ParseError};
use base::NodeId;
use std::time::Duration;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Nothing was typed, or a remark: `# …`.
    Empty,
    /// `kill -9`.
    Kill(NodeId),
    /// Starts a node that was killed.
    Start(NodeId),
    /// Stops a process where it stands.
    Pause(NodeId),
    /// Lets it go on.
    Resume(NodeId),
    /// Silences the network between two nodes.
    Cut(NodeId, NodeId),
    /// What the disk of a node is from now on.
    Disk(NodeId, Disk),
    /// Undoes all of it.
    Heal,
    /// How nodes and bank are.
    Status,
    /// How the bank is.
    Bank,
    /// Waits until a transfer that began after this has succeeded.
    Wait,
    /// Waits that long.
    Sleep(Duration),
    /// A command of `corelane shell`.
    Shell(Line),
    /// Lists the commands.
    Help,
    /// Ends the demonstration.
    Quit,
}

/// A change of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Log writes take long, or not.
    Slow(bool),
    /// Less is free than is kept, or not.
    Full(bool),
}

/// Name, arguments and meaning of each command.
pub(crate) const COMMANDS: &[(&str, &str, &str)] = &[
    ("kill", "N", "kill node N, or `leader`: kill -9"),
    ("start", "N", "start it again, on the data that it has"),
    ("pause", "N", "stop node N where it stands: SIGSTOP"),
    ("resume", "N", "let it go on"),
    ("cut", "A B", "silence the network between two nodes, both ways"),
    ("slow-disk", "N", "log writes of node N take 400 ms longer"),
    ("fast-disk", "N", "they do no more"),
    ("full-disk", "N", "node N has less room than it keeps free"),
    ("free-disk", "N", "it has room again"),
    (
        "heal",
        "",
        "start, resume and reconnect everything; disks are well",
    ),
    ("status", "", "how the nodes and the bank are"),
    ("bank", "", "the bank alone, with the gap after each fault"),
    ("wait", "", "until a new transfer has succeeded, 30 s at most"),
    ("sleep", "SECONDS", "do nothing for a while"),
    ("get", "KEY", "print the value of a key"),
    ("put", "KEY VALUE", "set a key outside the bank"),
    (
        "scan",
        "[START [END] | PREFIX*] [limit N]",
        "list keys and values",
    ),
    ("ranges", "", "list the ranges"),
    ("help", "", "this list"),
    ("quit", "", "end all nodes and remove their data; so does Ctrl-D"),
];

/// The longest sleep: an hour.
const SLEEP_MAX_S: f64 = 3600.0;

/// Reads one line. `nodes` are numbered from 1; `leader` is the one that the word stands for, if there is one.
pub(crate) fn parse(line: &str, nodes: u64, leader: Option<NodeId>) -> Result<Command, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let node = |text: &str| match text.parse() {
        Ok(id) if (1..=nodes).contains(&id) => Ok(NodeId(id)),
        Err(_) if text == "leader" => leader.ok_or_else(|| "no node is known to lead now".to_owned()),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a node: they are 1 to {nodes}")),
    };
    Ok(match *words {
        [] => Command::Empty,
        [first, ..] if first.starts_with('#') => Command::Empty,
        ["kill", id] => Command::Kill(node(id)?),
        ["start", id] => Command::Start(node(id)?),
        ["pause", id] => Command::Pause(node(id)?),
        ["resume", id] => Command::Resume(node(id)?),
        ["cut", one, other] => match (node(one)?, node(other)?) {
            (one, other) if one == other => return Err("a node is not cut from itself".to_owned()),
            (one, other) => Command::Cut(one, other),
        },
        ["slow-disk", id] => Command::Disk(node(id)?, Disk::Slow(true)),
        ["fast-disk", id] => Command::Disk(node(id)?, Disk::Slow(false)),
        ["full-disk", id] => Command::Disk(node(id)?, Disk::Full(true)),
        ["free-disk", id] => Command::Disk(node(id)?, Disk::Full(false)),
        ["heal"] => Command::Heal,
        ["status"] => Command::Status,
        ["bank"] => Command::Bank,
        ["wait"] => Command::Wait,
        ["sleep", seconds] => match seconds.parse::<f64>() {
            Ok(seconds) if (0.0..=SLEEP_MAX_S).contains(&seconds) => {
                Command::Sleep(Duration::from_secs_f64(seconds))
            }
            Ok(_) | Err(_) => return Err(format!("`{seconds}` is not a number of seconds up to 3600")),
        },
        ["help"] => Command::Help,
        ["quit" | "exit"] => Command::Quit,
        ["get" | "put" | "scan" | "rscan" | "ranges", ..] => {
            let line = shell::parse(line).map_err(|ParseError(why)| why)?;
            if let Line::Put { key, .. } = &line
                && key.starts_with(b"bank/")
            {
                return Err("the keys below bank/ are the bank's".to_owned());
            }
            Command::Shell(line)
        }
        [name, ..] => match COMMANDS.iter().find(|(known, ..)| *known == name) {
            Some((_, arguments, _)) => {
                return Err(format!("write `{}`", format!("{name} {arguments}").trim_end()));
            }
            None => return Err(format!("`{name}` is not a command; `help` lists them")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_say_why_not() {
        let three = |line| parse(line, 3, Some(NodeId(3)));
        assert_eq!(three("  kill 2 "), Ok(Command::Kill(NodeId(2))));
        assert_eq!(three("pause leader"), Ok(Command::Pause(NodeId(3))));
        assert_eq!(
            parse("kill leader", 3, None),
            Err("no node is known to lead now".to_owned())
        );
        assert_eq!(
            three("slow-disk leader"),
            Ok(Command::Disk(NodeId(3), Disk::Slow(true)))
        );
        assert_eq!(
            three("free-disk 2"),
            Ok(Command::Disk(NodeId(2), Disk::Full(false)))
        );
        assert_eq!(three("cut 1 3"), Ok(Command::Cut(NodeId(1), NodeId(3))));
        assert_eq!(
            three("sleep 0.25"),
            Ok(Command::Sleep(Duration::from_millis(250)))
        );
        assert_eq!(three("# a remark"), Ok(Command::Empty));
        assert!(matches!(
            three("put a 'b c'"),
            Ok(Command::Shell(Line::Put { .. }))
        ));
        for (line, why) in [
            ("kill 4", "`4` is not a node: they are 1 to 3"),
            ("kill", "write `kill N`"),
            ("heal 1", "write `heal`"),
            ("cut 1 1", "a node is not cut from itself"),
            ("sleep -1", "`-1` is not a number of seconds up to 3600"),
            ("sleep NaN", "`NaN` is not a number of seconds up to 3600"),
            ("put bank/00001 7", "the keys below bank/ are the bank's"),
            ("slow-disk", "write `slow-disk N`"),
            ("full-disk 4", "`4` is not a node: they are 1 to 3"),
            ("burn 1", "`burn` is not a command; `help` lists them"),
        ] {
            assert_eq!(three(line), Err(why.to_owned()));
        }
    }
}
