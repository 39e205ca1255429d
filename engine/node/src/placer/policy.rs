//! What is wished for the keys of prefixes, as every node knows it: the file `POLICIES`, replaced when something is learned.
//!
//! ```text
//! a list of magic "CLPOLIC1", whose entries are, in 1,437 bytes each:
//! version u64 │ 1 in force, 0 removed │ replicas u32 │ split_bytes u64 │ four lengths u16 │ prefix, constraints, preferences,
//! group, without gaps │ zeros
//! ```
//! Of two words about one prefix the one of the greater version counts, as with `standing`. A policy that was removed is remembered
//! as such, so that nobody who has not heard of it brings it back.

use super::settings::{Placement, SPLIT_BYTES_MIN};
use crate::file::List;
use crate::members::REPLICAS_MAX;
use core::fmt::Display;
use env::{DiskError, Env};
use placement::{Constraint, Policy};
use std::collections::BTreeMap;
use wire::peer;
use wire::policy::{
    POLICIES_MAX, POLICY_ENTRIES_MAX, POLICY_GROUP_BYTES_MAX, POLICY_PREFIX_BYTES_MAX, POLICY_TEXT_BYTES_MAX,
};

/// The file's name in the data directory.
pub(crate) const FILE: &str = "POLICIES";
/// Where an entry's bytes of changing length begin: before them are its numbers and their lengths.
const TEXT_FROM: usize = 29;
const ENTRY_BYTES: usize =
    TEXT_FROM + POLICY_PREFIX_BYTES_MAX + 2 * POLICY_TEXT_BYTES_MAX + POLICY_GROUP_BYTES_MAX;
const LIST: List<ENTRY_BYTES> = List {
    name: FILE,
    magic: b"CLPOLIC1",
};

/// Constraints of a policy, or of one of its lease preferences; and lease preferences.
const CONSTRAINTS_MAX: usize = 16;
/// Versions are nanoseconds of wall clocks; none is beyond this, and there are always later ones.
pub(crate) const VERSION_MAX: u64 = u64::MAX / 2;

/// The file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error(
        "{FILE} is damaged or of another version of corelane: remove it; other nodes know what it says, or say `corelane policy set` anew"
    )]
    Unknown,
}

/// What is wished for the keys of a prefix, in text that was checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Wish {
    /// Zero: as many as where nothing else is said.
    replicas: u32,
    /// Zero: those where nothing else is said.
    split_bytes: u64,
    constraints: Box<str>,
    preferences: Box<str>,
    group: Box<str>,
}

/// What was said of a prefix, with its version; no wish when the policy was removed.
type Said = (u64, Option<Wish>);

/// What is known of all prefixes of which something was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policies(BTreeMap<Box<[u8]>, Said>);

fn joined(parts: &[impl Display], by: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(by)
}

/// The constraints that a text names.
fn parse_constraints(text: &str) -> Result<Vec<Constraint>, String> {
    let one = |part: &str| {
        let is_plain = |text: &str| !text.is_empty() && !text.contains([';', '=', ':']);
        match Constraint::parse(part) {
            Some(Constraint::Require(name, value) | Constraint::Prohibit(name, value))
                if !is_plain(&name) || !is_plain(&value) =>
            {
                None
            }
            Some(Constraint::Count(name, value, count))
                if !is_plain(&name) || !is_plain(&value) || count == 0 || count as usize > REPLICAS_MAX =>
            {
                None
            }
            parsed => parsed,
        }
        .ok_or_else(|| {
            format!(
                "`{part}` is no constraint: write +region=eu (all replicas), -zone=b (none), or +region=eu:2 (at least two)"
            )
        })
    };
    let parts = text.split(',').filter(|part| !part.is_empty());
    let all = parts.map(one).collect::<Result<Vec<_>, _>>()?;
    if all.len() > CONSTRAINTS_MAX {
        return Err(format!(
            "{} constraints are more than {CONSTRAINTS_MAX}",
            all.len()
        ));
    }
    Ok(all)
}

/// The lease preferences that a text names, best first.
fn parse_preferences(text: &str) -> Result<Vec<Vec<Constraint>>, String> {
    let one = |part: &str| {
        let preference = parse_constraints(part)?;
        match preference
            .iter()
            .find(|constraint| matches!(constraint, Constraint::Count(..)))
        {
            Some(count) => Err(format!(
                "`{count}` is no place for a leader: a range has one; write +region=eu or -zone=b"
            )),
            None => Ok(preference),
        }
    };
    let parts = text.split(';').filter(|part| !part.is_empty());
    let all = parts.map(one).collect::<Result<Vec<_>, _>>()?;
    if all.len() > CONSTRAINTS_MAX {
        return Err(format!(
            "{} lease preferences are more than {CONSTRAINTS_MAX}",
            all.len()
        ));
    }
    Ok(all)
}

impl Wish {
    /// What somebody wishes, if it can be wished.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub(crate) fn from_wire(wish: &peer::ArchivedPolicyWish<'static>) -> Result<Self, String> {
        let (replicas, split_bytes) = (wish.replicas.to_native(), wish.split_bytes.to_native());
        if replicas as usize > REPLICAS_MAX {
            return Err(format!(
                "a range has 1 to {REPLICAS_MAX} replicas, not {replicas}"
            ));
        }
        if (1..SPLIT_BYTES_MIN).contains(&split_bytes) {
            return Err(format!(
                "a range of less than {SPLIT_BYTES_MIN} bytes is not split"
            ));
        }
        let constraints = joined(&parse_constraints(&wish.constraints)?, ",");
        let preferences: Vec<_> = parse_preferences(&wish.preferences)?
            .iter()
            .map(|preference| joined(preference, ","))
            .collect();
        let preferences = joined(&preferences, ";");
        for (what, text) in [("constraints", &constraints), ("lease preferences", &preferences)] {
            if text.len() > POLICY_TEXT_BYTES_MAX {
                return Err(format!(
                    "the {what} have {} bytes of text; the limit is {POLICY_TEXT_BYTES_MAX}",
                    text.len()
                ));
            }
        }
        let group = String::from(&*wish.group);
        if group.len() > POLICY_GROUP_BYTES_MAX || group.contains(char::is_control) {
            return Err(format!(
                "the name of a group is text of at most {POLICY_GROUP_BYTES_MAX} bytes"
            ));
        }
        Ok(Self {
            replicas,
            split_bytes,
            constraints: constraints.into(),
            preferences: preferences.into(),
            group: group.into(),
        })
    }

    /// One that says where replicas and leaders are to be, for tests.
    #[cfg(test)]
    pub(crate) fn of(constraints: &str, preferences: &str) -> Self {
        Self {
            constraints: constraints.into(),
            preferences: preferences.into(),
            ..Self::default()
        }
    }

    pub(crate) fn to_wire(&self) -> peer::PolicyWish<'_> {
        peer::PolicyWish {
            replicas: self.replicas,
            split_bytes: self.split_bytes,
            constraints: &self.constraints,
            preferences: &self.preferences,
            group: &self.group,
        }
    }

    /// The same for the crate that decides. What is not said is as in `other`.
    fn resolve(&self, prefix: &[u8], other: &Policy) -> Policy {
        Policy {
            prefix: prefix.into(),
            replicas: if self.replicas == 0 {
                other.replicas
            } else {
                self.replicas
            },
            // They were parsed before, when the wish was made.
            constraints: parse_constraints(&self.constraints).unwrap_or_default(),
            lease_preferences: parse_preferences(&self.preferences).unwrap_or_default(),
            group: (!self.group.is_empty()).then(|| self.group.clone()),
            split_bytes: if self.split_bytes == 0 {
                other.split_bytes
            } else {
                self.split_bytes
            },
        }
    }
}

/// Checks the prefix of a policy.
///
/// # Errors
/// The limit.
fn check_prefix(prefix: &[u8]) -> Result<(), String> {
    if prefix.len() > POLICY_PREFIX_BYTES_MAX {
        return Err(format!(
            "the prefix of a policy has at most {POLICY_PREFIX_BYTES_MAX} bytes, not {}",
            prefix.len()
        ));
    }
    Ok(())
}

impl Policies {
    /// What is wished for this prefix itself.
    pub(crate) fn of(&self, prefix: &[u8]) -> Option<&Wish> {
        self.0.get(prefix).and_then(|(_, wish)| wish.as_ref())
    }

    /// Says what is wished for the keys of a prefix from now on; `None` for nothing. What is wished already is not said again.
    ///
    /// # Errors
    /// Why it cannot be wished, in a sentence.
    pub(crate) fn say(&mut self, prefix: &[u8], wish: Option<Wish>, now_ns: u64) -> Result<(), String> {
        check_prefix(prefix)?;
        if self.of(prefix) == wish.as_ref() {
            return Ok(());
        }
        let in_force = self.0.values().filter(|(_, wish)| wish.is_some()).count();
        let is_full =
            in_force >= POLICIES_MAX || self.0.len() >= POLICY_ENTRIES_MAX && !self.0.contains_key(prefix);
        if wish.is_some() && self.of(prefix).is_none() && is_full {
            return Err(format!(
                "there is no room for another policy: {in_force} are in force, of at most {POLICIES_MAX}, and {} prefixes are \
                 remembered, of at most {POLICY_ENTRIES_MAX}",
                self.0.len()
            ));
        }
        let after = self.0.get(prefix).map_or(0, |(version, _)| version + 1);
        self.0
            .insert(prefix.into(), (now_ns.min(VERSION_MAX).max(after), wish));
        Ok(())
    }

    /// Takes what another node knows. Whether it was news; `None` when no node says such a thing.
    pub(crate) fn learn(&mut self, theirs: &Self) -> bool {
        let mut is_news = false;
        for (prefix, said) in &theirs.0 {
            let known = self.0.get(prefix);
            // More than anybody is told of is not kept: it stays what it is.
            if known.is_some_and(|known| known >= said)
                || known.is_none() && self.0.len() >= POLICY_ENTRIES_MAX
            {
                continue;
            }
            self.0.insert(prefix.clone(), said.clone());
            is_news = true;
        }
        is_news
    }

    /// What another node says; `None` when no node says such a thing.
    pub(crate) fn from_wire(said: &[peer::ArchivedPolicy<'static>]) -> Option<Self> {
        if said.len() > POLICY_ENTRIES_MAX {
            return None;
        }
        let one = |policy: &peer::ArchivedPolicy<'static>| {
            let version = policy.version.to_native();
            let wish = match policy.wish.as_ref() {
                Some(wish) => Some(Wish::from_wire(wish).ok()?),
                None => None,
            };
            check_prefix(&policy.prefix).ok()?;
            (version < VERSION_MAX).then(|| (Box::from(&*policy.prefix), (version, wish)))
        };
        said.iter().map(one).collect::<Option<_>>().map(Self)
    }

    pub(crate) fn to_wire(&self) -> Vec<peer::Policy<'_>> {
        self.0
            .iter()
            .map(|(prefix, (version, wish))| peer::Policy {
                prefix,
                version: *version,
                wish: wish.as_ref().map(Wish::to_wire),
            })
            .collect()
    }

    /// Those in force, as nodes tell clients.
    pub(crate) fn in_force(&self) -> Vec<peer::Policy<'_>> {
        let mut all = self.to_wire();
        all.retain(|policy| policy.wish.is_some());
        all
    }

    /// The policies for the crate that decides; the first one is that of all keys.
    pub(crate) fn resolve(&self, settings: &Placement) -> Vec<Policy> {
        let told = Policy {
            replicas: settings.replicas,
            split_bytes: settings.split_bytes,
            ..Policy::default()
        };
        let all = self.of(b"").map_or(told.clone(), |wish| wish.resolve(b"", &told));
        let others = self.0.iter().filter(|(prefix, _)| !prefix.is_empty());
        let others = others.filter_map(|(prefix, (_, wish))| Some(wish.as_ref()?.resolve(prefix, &all)));
        core::iter::once(all.clone()).chain(others).collect()
    }

    /// The fewest bytes at which a range is split.
    pub(crate) fn split_bytes_min(&self, settings: &Placement) -> u64 {
        let said = self
            .0
            .values()
            .filter_map(|(_, wish)| Some(wish.as_ref()?.split_bytes));
        let said = said.filter(|bytes| *bytes > 0);
        said.chain([settings.split_bytes])
            .min()
            .unwrap_or(settings.split_bytes)
    }

    /// Hands all that was said to `add`, in one order.
    pub(crate) fn digest(&self, mut add: impl FnMut(&[u8])) {
        for (prefix, said) in &self.0 {
            add(&to_entry(prefix, said));
        }
    }
}

/// Reads what was said; nothing when there is no file. What a killed process left is durable afterwards.
///
/// # Errors
/// [`PolicyError`].
pub(crate) async fn load<E: Env>(env: &E) -> Result<Policies, PolicyError> {
    let entries = LIST.load(env).await?.ok_or(PolicyError::Unknown)?;
    let said = entries.iter().map(from_entry).collect::<Option<_>>();
    said.map(Policies).ok_or(PolicyError::Unknown)
}

/// Writes it durably in place of what was there.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn store<E: Env>(env: &E, policies: &Policies) -> Result<(), DiskError> {
    let entries: Vec<_> = policies
        .0
        .iter()
        .map(|(prefix, said)| to_entry(prefix, said))
        .collect();
    LIST.store(env, &entries).await
}

fn to_entry(prefix: &[u8], (version, wish): &Said) -> [u8; ENTRY_BYTES] {
    let none = Wish::default();
    let of = wish.as_ref().unwrap_or(&none);
    let parts = [
        prefix,
        of.constraints.as_bytes(),
        of.preferences.as_bytes(),
        of.group.as_bytes(),
    ];
    let mut entry = [0; ENTRY_BYTES];
    entry[..8].copy_from_slice(&version.to_le_bytes());
    entry[8] = wish.is_some().into();
    entry[9..13].copy_from_slice(&of.replicas.to_le_bytes());
    entry[13..21].copy_from_slice(&of.split_bytes.to_le_bytes());
    let mut at = TEXT_FROM;
    for (number, part) in parts.into_iter().enumerate() {
        let bytes = u16::try_from(part.len()).expect("parts are shorter than their limits");
        entry[21 + 2 * number..][..2].copy_from_slice(&bytes.to_le_bytes());
        entry[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    entry
}

fn from_entry(entry: &[u8; ENTRY_BYTES]) -> Option<(Box<[u8]>, Said)> {
    let version = u64::from_le_bytes(entry[..8].try_into().ok()?);
    let mut rest = &entry[TEXT_FROM..];
    let mut part = |number: usize| {
        let bytes = u16::from_le_bytes(entry[21 + 2 * number..][..2].try_into().ok()?);
        let (part, tail) = rest.split_at_checked(bytes.into())?;
        rest = tail;
        Some(part)
    };
    let prefix: Box<[u8]> = part(0)?.into();
    let mut text = |number: usize| Some(Box::from(core::str::from_utf8(part(number)?).ok()?));
    let wish = Wish {
        replicas: u32::from_le_bytes(entry[9..13].try_into().ok()?),
        split_bytes: u64::from_le_bytes(entry[13..21].try_into().ok()?),
        constraints: text(1)?,
        preferences: text(2)?,
        group: text(3)?,
    };
    parse_constraints(&wish.constraints).ok()?;
    parse_preferences(&wish.preferences).ok()?;
    match entry[8] {
        0 => Some((prefix, (version, None))),
        1 => Some((prefix, (version, Some(wish)))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskImage, ImageMachine};

    fn wish(constraints: &str) -> Wish {
        Wish {
            constraints: constraints.into(),
            ..Wish::default()
        }
    }

    fn said() -> Policies {
        let mut policies = Policies::default();
        let full = Wish {
            replicas: 5,
            split_bytes: 1 << 20,
            constraints: "+region=eu,-zone=b,+disk=fast:2".into(),
            preferences: "+zone=a;+region=eu,-zone=c".into(),
            group: "together".into(),
        };
        policies.say(b"eu/", Some(full), 17).unwrap();
        policies.say(b"", Some(wish("")), 18).unwrap();
        policies.say(b"us/", Some(wish("+region=us")), 19).unwrap();
        policies.say(b"us/", None, 3).unwrap();
        policies
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let read = said()
            .0
            .iter()
            .map(|(prefix, said)| from_entry(&to_entry(prefix, said)))
            .collect();
        assert_eq!(Some(said().0), read);
        assert_eq!(from_entry(&[9; ENTRY_BYTES]), None);
        let machine = ImageMachine::new(&DiskImage::new());
        machine.block_on(store(&machine.env(), &said())).unwrap();
        assert_eq!(machine.block_on(load(&machine.env())), Ok(said()));
    }

    #[test]
    fn of_two_words_the_later_counts_and_a_removal_is_one() {
        let mut one = said();
        let mut other = said();
        assert_eq!(one.of(b"us/"), None);
        assert_eq!(one.0[&b"us/"[..]].0, 20, "also when the clock goes back");
        other.say(b"us/", Some(wish("+region=ca")), 4).unwrap();
        one.say(b"eu/", None, 40).unwrap();
        assert!(one.learn(&other) && other.learn(&one));
        assert_eq!(one, other);
        assert!(!one.learn(&other), "no news");
        assert_eq!(one.in_force().len(), 2);
        one.say(b"us/", Some(wish("+region=ca")), 99).unwrap();
        assert_eq!(one, other, "the same is not said again");
    }

    #[test]
    fn what_a_policy_does_not_say_is_as_for_all_keys() {
        let settings = Placement::default();
        let mut policies = said();
        let resolved = policies.resolve(&settings);
        assert_eq!(resolved.len(), 2, "what was removed is none");
        assert_eq!(
            (resolved[0].replicas, resolved[0].split_bytes),
            (3, settings.split_bytes)
        );
        assert_eq!((resolved[1].replicas, resolved[1].constraints.len()), (5, 3));
        assert_eq!(policies.split_bytes_min(&settings), 1 << 20);
        let seven = Wish {
            replicas: 7,
            ..wish("+region=eu")
        };
        policies.say(b"", Some(seven), 50).unwrap();
        policies.say(b"b", Some(wish("")), 51).unwrap();
        let resolved = policies.resolve(&settings);
        assert_eq!((resolved[1].replicas, resolved[1].constraints.len()), (7, 0));
    }

    #[test]
    fn there_is_a_bound_for_everything() {
        let mut policies = Policies::default();
        let long = vec![b'p'; POLICY_PREFIX_BYTES_MAX + 1];
        let why = policies.say(&long, Some(wish("")), 1).unwrap_err();
        assert!(why.contains("at most 256 bytes, not 257"), "{why}");
        for number in 0..POLICY_ENTRIES_MAX {
            let prefix = format!("{number}");
            assert!(policies.say(prefix.as_bytes(), Some(wish("")), 1).is_ok());
            policies.say(prefix.as_bytes(), None, 2).unwrap();
        }
        let why = policies.say(b"another", Some(wish("")), 3).unwrap_err();
        assert!(why.contains("1024 prefixes are remembered"), "{why}");
        assert!(
            policies.say(b"7", Some(wish("")), 3).is_ok(),
            "it is remembered already"
        );
        let mut others = Policies::default();
        others.say(b"another", Some(wish("")), 3).unwrap();
        assert!(!policies.learn(&others) && policies.0.len() == POLICY_ENTRIES_MAX);
    }

    #[test]
    fn what_is_no_constraint_is_named() {
        for wrong in [
            "region=eu",
            "+region",
            "+=eu",
            "+a=b:0",
            "+a=b:65",
            "-a=b:2",
            "+a=b=c",
            "+a=b;+c=d",
        ] {
            let why = parse_constraints(wrong).unwrap_err();
            assert!(
                why.contains(&format!("`{wrong}`")) && why.contains("+region=eu"),
                "{why}"
            );
        }
        assert!(parse_preferences("+a=b:2").unwrap_err().contains("`+a=b:2`"));
        assert!(parse_constraints(&["+a=b"; CONSTRAINTS_MAX + 1].join(",")).is_err());
        assert_eq!(parse_constraints("").unwrap(), []);
    }
}
