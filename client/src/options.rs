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

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::InvalidAddress {
            text: text.to_owned(),
        };
        let rest = match text.split_once("://") {
            Some(("corelane", rest)) => rest,
            Some(_) => return Err(invalid()),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, rest) = bracketed.split_once(']').ok_or_else(invalid)?;
            if !host.contains(':') {
                return Err(invalid());
            }
            let port = if rest.is_empty() {
                None
            } else {
                Some(rest.strip_prefix(':').ok_or_else(invalid)?)
            };
            (host, port)
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| invalid())?,
            None => DEFAULT_PORT,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "corelane://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "corelane://{}:{}", self.host, self.port)
        }
    }
}

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A name for people, shown in the server's status. Cut at 64 bytes.
    pub app: String,
    /// How long a call may take, retries included; for a scan, how long the next page may take. More than zero.
    pub deadline: Duration,
    /// The first pause before a retry.
    pub backoff_min: Duration,
    /// The longest pause before a retry.
    pub backoff_max: Duration,
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
            backoff_min: Duration::from_millis(2),
            backoff_max: Duration::from_millis(250),
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
        }
    }
}
