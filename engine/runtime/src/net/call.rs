//! The system calls, with typed errors.

use env::net::{Address, NetError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

pub(crate) fn net_error(what: &'static str, error: &io::Error) -> NetError {
    NetError {
        what,
        kind: error.kind(),
    }
}

fn last(what: &'static str) -> NetError {
    net_error(what, &io::Error::last_os_error())
}

/// A socket address as the kernel wants it, and its length.
fn encode(address: &Address) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes is a valid storage; both casts go to a type that fits in it and is aligned no more strictly.
    unsafe {
        let mut storage: libc::sockaddr_storage = core::mem::zeroed();
        let at = &raw mut storage;
        let len = match address {
            Address::V4(v4) => {
                *at.cast() = libc::sockaddr_in {
                    sin_family: family(address),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>()
            }
            Address::V6(v6) => {
                *at.cast() = libc::sockaddr_in6 {
                    sin6_family: family(address),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, u32::try_from(len).expect("a socket address is small"))
    }
}

fn family(address: &Address) -> libc::sa_family_t {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u16::try_from(family).expect("the two families are small numbers")
}

/// A nonblocking stream socket without delay.
pub(super) fn stream_socket(address: &Address) -> Result<OwnedFd, NetError> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(i32::from(family(address)), kind, 0) };
    if fd < 0 {
        return Err(last("socket"));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
    Ok(fd)
}

fn set_option(fd: &OwnedFd, level: i32, name: i32) -> Result<(), NetError> {
    let one: i32 = 1;
    let len = u32::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the pointer and length describe `one`.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const one).cast(), len) };
    if result == 0 {
        Ok(())
    } else {
        Err(last("setsockopt"))
    }
}

/// A listening socket, nonblocking.
pub(super) fn listen(address: &Address) -> Result<OwnedFd, NetError> {
    let fd = stream_socket(address)?;
    // Only lets us follow an earlier process whose connections linger; a living listener still holds the port.
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    let (storage, len) = encode(address);
    // SAFETY: the pointer and length describe `storage`.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), len) } != 0 {
        return Err(last("bind"));
    }
    // SAFETY: no pointers.
    if unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) } != 0 {
        return Err(last("listen"));
    }
    Ok(fd)
}

/// Starts to connect; true when it is done already.
pub(super) fn connect(fd: &OwnedFd, address: &Address) -> Result<bool, NetError> {
    let (storage, len) = encode(address);
    // SAFETY: the pointer and length describe `storage`.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const storage).cast(), len) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINPROGRESS | libc::EINTR) => Ok(false),
        _ => Err(net_error("connect", &error)),
    }
}

/// How a connect that was in progress has ended.
pub(super) fn connected(fd: &OwnedFd) -> Result<(), NetError> {
    let mut code: i32 = 0;
    let mut len = u32::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the pointers describe `code` and its length.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut code).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(last("connect"));
    }
    if code != 0 {
        return Err(net_error("connect", &io::Error::from_raw_os_error(code)));
    }
    Ok(())
}

/// Where a listener listens.
pub(super) fn local_address(fd: &OwnedFd) -> Result<Address, NetError> {
    // SAFETY: all zeroes is a valid storage, and the pointers describe it and its length. The family says which type the
    // kernel has written.
    unsafe {
        let mut storage: libc::sockaddr_storage = core::mem::zeroed();
        let mut len = u32::try_from(size_of::<libc::sockaddr_storage>()).expect("128");
        if libc::getsockname(fd.as_raw_fd(), (&raw mut storage).cast(), &raw mut len) != 0 {
            return Err(last("getsockname"));
        }
        let at = &raw const storage;
        if i32::from(storage.ss_family) == libc::AF_INET {
            let v4: libc::sockaddr_in = *at.cast();
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            return Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into());
        }
        let v6: libc::sockaddr_in6 = *at.cast();
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
    }
}

/// The next connection, if one waits.
pub(super) fn accept(fd: i32) -> Result<Option<OwnedFd>, NetError> {
    loop {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: null pointers ask for no address.
        let got = unsafe { libc::accept4(fd, core::ptr::null_mut(), core::ptr::null_mut(), flags) };
        if got >= 0 {
            // SAFETY: a fresh descriptor that nobody else owns.
            let socket = unsafe { OwnedFd::from_raw_fd(got) };
            set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
            return Ok(Some(socket));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Ok(None),
            // Gone before we took it.
            Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
            _ => return Err(net_error("accept", &error)),
        }
    }
}

/// Receives what is there; `None` when nothing is.
pub(super) fn receive(fd: i32, buf: &mut [u8]) -> Result<Option<usize>, NetError> {
    loop {
        // SAFETY: the pointer and length describe `buf`.
        let got = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
        if let Ok(bytes) = usize::try_from(got) {
            return Ok(Some(bytes));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(net_error("receive", &error)),
        }
    }
}

/// Sends what fits, possibly nothing.
pub(super) fn send(fd: i32, bytes: &[u8]) -> Result<usize, NetError> {
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pointer and length describe `bytes`.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Ok(0),
            Some(libc::EINTR) => {}
            _ => return Err(net_error("send", &error)),
        }
    }
}

/// Ends both directions. A connection that has ended already is fine.
pub(super) fn shutdown(fd: i32) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}
