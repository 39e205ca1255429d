//! Facts about the machine that a figure means nothing without.

use serde::Serialize;

/// Where a bench ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MachineFacts {
    /// The processor's name.
    pub cpu: String,
    /// Processors that the scheduler may use.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The load average of the last minute and how it was before, as the kernel says it: others who use the machine are in it.
    pub load: String,
    /// The kernel's release.
    pub kernel: String,
}

impl MachineFacts {
    /// Reads them from `/proc`; what cannot be read is said to be unknown.
    #[must_use]
    pub fn read() -> Self {
        let unknown = || "unknown".to_owned();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpu: field(&cpuinfo, "model name").map_or_else(unknown, str::to_owned),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: field(&meminfo, "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            load: std::fs::read_to_string("/proc/loadavg").map_or_else(
                |_| unknown(),
                |text| text.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            ),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
        }
    }
}

/// The value of the first `name: value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: A CPU: fast\nMemTotal:  2048 kB\n";
        assert_eq!(field(text, "model name"), Some("A CPU: fast"));
        assert_eq!(field(text, "MemTotal"), Some("2048 kB"));
        assert_eq!(field(text, "model"), None);
    }
}
