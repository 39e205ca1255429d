//! Where to connect and how to behave.

use crate::Error;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// The port of `corelane start`.
const DEFAULT_PORT: u16 = 7400;

/// A server's address: `corelane://HOST[:PORT]`, or `HOST[:PORT]`; IPv6 hosts in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The servers that a client is told of, nodes of one cluster: `corelane://HOST[:PORT],HOST[:PORT]`, or the same without
/// `corelane://`. One is enough where it is up: the client learns the others from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<Address>);

impl Addresses {
    /// The servers in the order given, each once; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[Address] {
        &self.0
    }
}

impl From<Address> for Addresses {
    fn from(address: Address) -> Self {
        Self(vec![address])
    }
}

impl FromStr for Addresses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::InvalidAddress {
            text: text.to_owned(),
        };
        let rest = without_scheme(text).ok_or_else(invalid)?;
        let mut addresses: Vec<Address> = Vec::new();
        for part in rest.split(',') {
            let address = Address::of_host_and_port(part).ok_or_else(invalid)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(Self(addresses))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("corelane://")?;
        for (at, address) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            write!(f, "{separator}{}", address.host_and_port())?;
        }
        Ok(())
    }
}

/// What stands between `corelane://`, which may be missing, and a slash, which may be too.
fn without_scheme(text: &str) -> Option<&str> {
    let rest = match text.split_once("://") {
        Some(("corelane", rest)) => rest,
        Some(_) => return None,
        None => text,
    };
    Some(rest.strip_suffix('/').unwrap_or(rest))
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let address = without_scheme(text).and_then(Self::of_host_and_port);
        address.ok_or_else(|| Error::InvalidAddress {
            text: text.to_owned(),
        })
    }
}

impl Address {
    /// `HOST:PORT`, an IPv6 host in brackets.
    pub(crate) fn host_and_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn of_host_and_port(rest: &str) -> Option<Self> {
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, rest) = bracketed.split_once(']')?;
            if !host.contains(':') {
                return None;
            }
            let port = if rest.is_empty() {
                None
            } else {
                Some(rest.strip_prefix(':')?)
            };
            (host, port)
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => DEFAULT_PORT,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(plain) {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corelane://{}", self.host_and_port())
    }
}

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A name for people, shown in the server's status. Cut at 64 bytes.
    pub app: String,
    /// How long a call may take, retries included; for a scan, how long the next page may take. More than zero.
    pub deadline: Duration,
    /// How long one try may go without an answer, and how long connecting may take, where another node of the cluster could
    /// be asked instead: a node that is stopped or cut off answers nothing. Then the try counts as lost and the next one
    /// goes to another node. A node that turns out to be slow and not gone gets twice the time at the next try of the same
    /// call. With one server known a try may take until the deadline. More than zero.
    pub try_timeout: Duration,
    /// The first pause before a retry.
    pub backoff_min: Duration,
    /// The longest pause before a retry.
    pub backoff_max: Duration,
    /// How far the clocks of two nodes of the cluster may be apart: what nodes have been told, 500 ms unless chosen otherwise. Values
    /// that may have been written before a transaction began are found within it. A bound that is too small breaks that.
    pub clock_bound: Duration,
    /// Unanswered requests per connection; further calls wait. In `1..=65_536`.
    pub requests_max: usize,
    /// Whether connecting asks for the range map, some 50 bytes for each range. Without it the first requests may take a detour
    /// inside the node: right for a program that sends one and ends.
    pub map_at_connect: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            app: String::new(),
            deadline: Duration::from_secs(5),
            try_timeout: Duration::from_millis(500),
            backoff_min: Duration::from_millis(2),
            backoff_max: Duration::from_millis(250),
            clock_bound: Duration::from_millis(500),
            requests_max: 1024,
            map_at_connect: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, host, port) in [
            ("corelane://127.0.0.1:7400", "127.0.0.1", 7400),
            ("corelane://db.example/", "db.example", 7400),
            ("localhost:81", "localhost", 81),
            ("corelane://[::1]:7500", "::1", 7500),
            ("[::1]", "::1", 7400),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
        for bad in [
            "",
            "http://x",
            "corelane://",
            "x:port",
            "x:70000",
            "a b",
            "[::1",
            "[x]:1",
            "[::1]7400",
            "a/b",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
            assert!(bad.parse::<Addresses>().is_err(), "{bad}");
        }
        assert!("a,b".parse::<Address>().is_err());
    }

    #[test]
    fn several_addresses_parse_and_print() {
        for (text, printed) in [
            (
                "corelane://a:7400,b:7401,[::1]:7500/",
                "corelane://a:7400,b:7401,[::1]:7500",
            ),
            ("a,b:1,a:7400", "corelane://a:7400,b:1"),
            ("corelane://one", "corelane://one:7400"),
        ] {
            let addresses: Addresses = text.parse().unwrap();
            assert_eq!(addresses.to_string(), printed, "{text}");
            assert_eq!(printed.parse::<Addresses>().unwrap(), addresses);
        }
        for bad in [",", "a,", ",a", "a,,b", "corelane://a,corelane://b", "a, b"] {
            assert!(bad.parse::<Addresses>().is_err(), "{bad}");
        }
    }
}
