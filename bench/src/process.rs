//! What the kernel says about the server: its CPU time, its process, and the writes of the block devices.
//!
//! `utime + stime` of `/proc/PID/stat` cover all threads of a process, the dead ones too. They are exact sums cut to
//! clock ticks of 10 ms, so a run of some seconds resolves well below one percent of a processor.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The kernel's unit of `utime` and `stime` as shown to programs: fixed at 100 Hz on Linux, whatever the real tick.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process, user and system, all threads; `None` when it cannot be seen.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 14 and 15, counted after the command name, which may contain anything.
fn parse_stat(text: &str) -> Option<Duration> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

/// The process that listens on `address`: found by the socket's inode. `None` when it runs elsewhere or as someone else.
pub(crate) fn listener_pid(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() && !is_local(address) {
        return None;
    }
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find_map(|table| listening_inode(&table, address.port()))?;
    let wanted = format!("socket:[{inode}]");
    std::fs::read_dir("/proc")
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            holds_socket(&entry.path().join("fd"), &wanted).then_some(pid)
        })
}

/// Whether a connection to `address` would stay on this machine: binding to its IP tells.
fn is_local(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}

fn holds_socket(fd_directory: &Path, wanted: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(fd_directory) else {
        return false;
    };
    entries
        .filter_map(Result::ok)
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted))
}

/// The inode of the socket in state LISTEN (0A) on `port`, from the kernel's socket table.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        if is_it { fields.nth(5)?.parse().ok() } else { None }
    })
}

/// Writes completed by all block devices since start-up.
pub(crate) fn device_writes() -> Option<u64> {
    let disks: Vec<String> = std::fs::read_dir("/sys/block")
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        // Memory and loop devices only repeat what others write.
        .filter(|name| {
            !["loop", "ram", "zram", "dm-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    if disks.is_empty() {
        return None;
    }
    Some(writes_of(
        &std::fs::read_to_string("/proc/diskstats").ok()?,
        &disks,
    ))
}

fn writes_of(diskstats: &str, disks: &[String]) -> u64 {
    diskstats
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(2);
            let name = fields.next()?;
            if disks.iter().any(|disk| disk == name) {
                fields.nth(4)?.parse::<u64>().ok()
            } else {
                None
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_a_hostile_command_name() {
        let line = "77 (a) b ) S 1 77 77 0 -1 4194304 9 8 7 6 150 25 3 4 20 0 1 0 99 1000 10";
        assert_eq!(parse_stat(line), Some(Duration::from_millis(1750)));
        assert_eq!(parse_stat("77 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn our_own_cpu_time_can_be_read() {
        assert!(cpu_time(std::process::id()).is_some());
        assert_eq!(cpu_time(u32::MAX), None);
    }

    #[test]
    fn the_listening_socket_is_told_from_others_on_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1CE8 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
             1: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0\n";
        assert_eq!(listening_inode(table, 7400), Some(22));
        assert_eq!(listening_inode(table, 7401), None);
    }

    #[test]
    fn the_owner_of_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            listener_pid(listener.local_addr().unwrap()),
            Some(std::process::id())
        );
    }

    #[test]
    fn disk_writes_are_summed_over_real_disks() {
        let stats = " 254 0 vda 10 1 2 3 400 5 6 7 8 9 10\n 254 1 vda1 1 1 1 1 300 1 1 1 1 1 1\n 8 0 sdb 1 1 1 1 5 1\n";
        assert_eq!(writes_of(stats, &["vda".to_owned(), "sdb".to_owned()]), 405);
    }
}
