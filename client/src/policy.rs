//! What a cluster is to do with the keys of a prefix. Pure.

use wire::peer::{ArchivedPolicy, ArchivedPolicyWish, PolicyWish};

/// What is wished for the keys of a prefix: where their replicas and leaders are, and how large their ranges.
///
/// ```
/// use corelane::Policy;
///
/// // Three replicas in Europe, led in zone a if that can be.
/// let policy = Policy {
///     constraints: vec!["+region=eu".to_owned()],
///     lease_preferences: vec![vec!["+zone=a".to_owned()]],
///     ..Policy::default()
/// };
/// assert_eq!(policy.replicas, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Voters of each range, 1 to 64; `None` for as many as the policy of all keys wishes.
    pub replicas: Option<u32>,
    /// Bytes at which a range is split, at least 64 KiB; `None` for as many as the policy of all keys says.
    pub split_bytes: Option<u64>,
    /// Where replicas may be, by the localities of nodes: `+region=eu` (all replicas), `-zone=b` (none), `+region=eu:2` (at least two).
    pub constraints: Vec<String>,
    /// Where leaders are wished, best first. Each is a list of constraints without counts that all hold.
    pub lease_preferences: Vec<Vec<String>>,
    /// Ranges of one group, whatever their prefixes, are led by one node where that can be.
    pub group: Option<String>,
}

/// All policies of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    /// What holds for all keys unless a policy of the empty prefix says otherwise: how the nodes were started.
    pub start: Policy,
    /// Each with its prefix, ascending. The longest prefix of a key decides.
    pub set: Vec<(Vec<u8>, Policy)>,
}

impl Policies {
    /// What decides for a key: the policy of the longest prefix of it, with that prefix and with what it leaves to the policy of all
    /// keys; `None` instead of a prefix when no policy says anything of the key.
    ///
    /// ```
    /// use corelane::{Policies, Policy};
    ///
    /// let five = Policy { replicas: Some(5), ..Policy::default() };
    /// let policies = Policies { set: vec![(b"user/".to_vec(), five.clone())], ..Policies::default() };
    /// assert_eq!(policies.of(b"user/7"), (Some(&b"user/"[..]), five));
    /// assert_eq!(policies.of(b"order/7").0, None);
    /// ```
    #[must_use]
    pub fn of(&self, key: &[u8]) -> (Option<&[u8]>, Policy) {
        let fits = self.set.iter().filter(|(prefix, _)| key.starts_with(prefix));
        let all = self.set.iter().find(|(prefix, _)| prefix.is_empty());
        let all = all.map_or(&self.start, |(_, policy)| policy);
        match fits.max_by_key(|(prefix, _)| prefix.len()) {
            Some((prefix, policy)) => {
                let policy = Policy {
                    replicas: policy.replicas.or(all.replicas).or(self.start.replicas),
                    split_bytes: policy.split_bytes.or(all.split_bytes).or(self.start.split_bytes),
                    ..policy.clone()
                };
                (Some(prefix), policy)
            }
            None => (None, self.start.clone()),
        }
    }
}

/// What came of a change of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChange {
    /// What was wished for the prefix before.
    pub before: Option<Policy>,
    /// What cannot be as it is wished with the nodes that there are now: sentences for people.
    pub doubts: Vec<String>,
}

/// A policy in the form in which it is sent.
#[derive(Debug)]
pub(crate) struct Said {
    replicas: u32,
    split_bytes: u64,
    constraints: String,
    preferences: String,
    group: String,
}

impl Said {
    pub(crate) fn new(policy: &Policy) -> Self {
        let preferences: Vec<_> = policy
            .lease_preferences
            .iter()
            .map(|preference| preference.join(","))
            .collect();
        Self {
            replicas: policy.replicas.unwrap_or_default(),
            split_bytes: policy.split_bytes.unwrap_or_default(),
            constraints: policy.constraints.join(","),
            preferences: preferences.join(";"),
            group: policy.group.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn to_wire(&self) -> PolicyWish<'_> {
        PolicyWish {
            replicas: self.replicas,
            split_bytes: self.split_bytes,
            constraints: &self.constraints,
            preferences: &self.preferences,
            group: &self.group,
        }
    }
}

impl Policy {
    pub(crate) fn from_wire(wish: &ArchivedPolicyWish<'static>) -> Self {
        let parts = |text: &str, by: char| -> Vec<String> {
            let parts = text.split(by).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        let (replicas, split_bytes) = (wish.replicas.to_native(), wish.split_bytes.to_native());
        let preferences = parts(&wish.preferences, ';');
        Self {
            replicas: (replicas > 0).then_some(replicas),
            split_bytes: (split_bytes > 0).then_some(split_bytes),
            constraints: parts(&wish.constraints, ','),
            lease_preferences: preferences.iter().map(|one| parts(one, ',')).collect(),
            group: Some(String::from(&*wish.group)).filter(|group| !group.is_empty()),
        }
    }
}

/// A policy with its prefix; nothing when it was removed.
pub(crate) fn with_prefix(policy: &ArchivedPolicy<'static>) -> Option<(Vec<u8>, Policy)> {
    let wish = policy.wish.as_ref()?;
    Some((policy.prefix.to_vec(), Policy::from_wire(wish)))
}
