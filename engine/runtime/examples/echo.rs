//! What a message costs the server, three ways: through the seam, by a plain epoll loop, by a bare ring with multishot receive.
//!
//! `cargo run --release -p corelane-runtime --example echo -- [SECONDS]`
//!
//! Frames of 16 bytes are echoed on loopback. The server's thread has one processor, the client's thread another. Printed is
//! the server thread's processor time per message, in rounds that alternate between the three, and the median of the rounds.
#![allow(unsafe_code, reason = "the two servers to compare with are bare system calls")]
#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use corelane_runtime::{
    GlommioEnv, RingMailbox, RuntimeConfig, request_shutdown, run_shards, shutdown_requested,
};
use env::{Env as _, Listener as _, Net as _, Reader as _, TaskClass, Tasks as _, Writer as _};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const FRAME: usize = 16;
const BUFFER: usize = 16 << 10;
const ROUNDS: usize = 5;

fn main() {
    let seconds = std::env::args().nth(1).map_or(2.0, |text| text.parse().unwrap());
    println!(
        "server CPU per message, ns (median of {ROUNDS} rounds of {seconds} s), and thousands of messages per second"
    );
    println!(
        "{:>6} × {:<6} {:>16} {:>16} {:>16} {:>16}",
        "conns", "depth", "seam", "seam, spinning", "epoll", "ring"
    );
    for (connections, depth) in [(2, 64), (50, 1), (50, 16), (1, 1)] {
        let servers: [fn(Stop) -> SocketAddr; 4] = [seam, seam_spinning, epoll, ring];
        let mut rounds = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            for (server, rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(measure(
                    *server,
                    connections,
                    depth,
                    Duration::from_secs_f64(seconds),
                ));
            }
        }
        let cells: Vec<String> = rounds.into_iter().map(median).collect();
        println!(
            "{connections:>6} × {depth:<6} {:>16} {:>16} {:>16} {:>16}",
            cells[0], cells[1], cells[2], cells[3]
        );
    }
}

fn median(mut rounds: Vec<(u64, u64)>) -> String {
    rounds.sort_unstable();
    let (cpu_ns, rate) = rounds[rounds.len() / 2];
    format!("{cpu_ns} ({})", rate / 1000)
}

/// How a server is told to end, and where it leaves the processor time of its thread.
#[derive(Clone)]
struct Stop {
    stop: Arc<AtomicBool>,
    cpu_ns: Arc<AtomicU64>,
    ended: mpsc::Sender<()>,
}

fn thread_cpu_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut ts) };
    ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned()
}

fn pin(cpu: usize) {
    // SAFETY: a zeroed set is valid, and the call gets its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Server CPU per message in ns, and messages per second.
fn measure(server: fn(Stop) -> SocketAddr, connections: usize, depth: usize, time: Duration) -> (u64, u64) {
    let (ended, wait) = mpsc::channel();
    let stop = Stop {
        stop: Arc::default(),
        cpu_ns: Arc::default(),
        ended,
    };
    let address = server(stop.clone());
    let client = std::thread::spawn(move || load(address, connections, depth, time));
    let (messages, took) = client.join().unwrap();
    stop.stop.store(true, Ordering::Relaxed);
    request_shutdown();
    // Wakes a server that waits for events.
    drop(TcpStream::connect(address));
    wait.recv().unwrap();
    (
        stop.cpu_ns.load(Ordering::Relaxed) / messages,
        messages * 1_000_000 / u64::try_from(took.as_micros()).unwrap(),
    )
}

/// Keeps `depth` frames in flight on each connection.
fn load(address: SocketAddr, connections: usize, depth: usize, time: Duration) -> (u64, Duration) {
    pin(1);
    let mut streams: Vec<_> = (0..connections)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    // SAFETY: no pointers.
    let poll = unsafe { libc::epoll_create1(0) };
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        watch(poll, stream.as_raw_fd(), at as u64);
        stream.write_all(&vec![7; depth * FRAME]).unwrap();
    }
    let mut buf = vec![0; BUFFER];
    let mut bytes = 0;
    let start = Instant::now();
    while start.elapsed() < time {
        for at in events(poll) {
            let stream = &mut streams[usize::try_from(at).unwrap()];
            let got = stream.read(&mut buf).unwrap();
            bytes += got as u64;
            stream.write_all(&buf[..got]).unwrap();
        }
    }
    // SAFETY: opened above.
    unsafe { libc::close(poll) };
    (bytes / FRAME as u64, start.elapsed())
}

fn watch(poll: i32, fd: i32, token: u64) {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN.cast_unsigned(),
        u64: token,
    };
    // SAFETY: a valid event.
    let added = unsafe { libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    assert_eq!(added, 0);
}

fn events(poll: i32) -> Vec<u64> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    // SAFETY: room for 64 events.
    let count = unsafe { libc::epoll_wait(poll, events.as_mut_ptr(), 64, 1000) };
    events[..usize::try_from(count).unwrap_or(0)]
        .iter()
        .map(|event| event.u64)
        .collect()
}

fn seam(stop: Stop) -> SocketAddr {
    start_seam(stop, false)
}

fn seam_spinning(stop: Stop) -> SocketAddr {
    start_seam(stop, true)
}

fn start_seam(stop: Stop, dedicated: bool) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let config = RuntimeConfig {
            shards: 1,
            dedicated,
            ..RuntimeConfig::new(std::env::temp_dir())
        };
        let ended = stop.ended.clone();
        run_shards(&config, move |env: GlommioEnv, _: RingMailbox<()>| {
            let (stop, sender) = (stop.clone(), sender.clone());
            async move {
                let listener = env.net().listen("127.0.0.1:0".parse().unwrap()).unwrap();
                sender.send(listener.address()).unwrap();
                let accepting = env.clone();
                env.tasks().spawn(TaskClass::Foreground, async move {
                    while let Ok(socket) = listener.accept().await {
                        let halves = accepting.net().adopt(socket);
                        accepting.tasks().spawn(TaskClass::Foreground, serve(halves));
                    }
                });
                let before_ns = thread_cpu_ns();
                shutdown_requested().await;
                stop.cpu_ns.store(thread_cpu_ns() - before_ns, Ordering::Relaxed);
                Ok::<(), String>(())
            }
        })
        .unwrap();
        ended.send(()).unwrap();
    });
    receiver.recv().unwrap()
}

async fn serve((mut reader, writer): (corelane_runtime::SocketReader, corelane_runtime::SocketWriter)) {
    let mut buf = vec![0; BUFFER];
    loop {
        let Ok(bytes @ 1..) = reader.read(&mut buf).await else {
            return;
        };
        let mut rest = &buf[..bytes];
        while !rest.is_empty() {
            let Ok(sent) = writer.try_write(rest) else { return };
            rest = &rest[sent..];
            if !rest.is_empty() && writer.writable().await.is_err() {
                return;
            }
        }
    }
}

fn epoll(stop: Stop) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        pin(0);
        // SAFETY: no pointers.
        let poll = unsafe { libc::epoll_create1(0) };
        watch(poll, listener.as_raw_fd(), u64::MAX);
        let mut streams = Vec::new();
        let mut buf = vec![0; BUFFER];
        let before_ns = thread_cpu_ns();
        while !stop.stop.load(Ordering::Relaxed) {
            for token in events(poll) {
                if token == u64::MAX {
                    let stream = listener.accept().unwrap().0;
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    watch(poll, stream.as_raw_fd(), streams.len() as u64);
                    streams.push(stream);
                    continue;
                }
                let stream = &mut streams[usize::try_from(token).unwrap()];
                match stream.read(&mut buf) {
                    Ok(bytes @ 1..) => drop(stream.write_all(&buf[..bytes])),
                    // SAFETY: a null event is fine for a removal.
                    _ => unsafe {
                        libc::epoll_ctl(
                            poll,
                            libc::EPOLL_CTL_DEL,
                            stream.as_raw_fd(),
                            std::ptr::null_mut(),
                        );
                    },
                }
            }
        }
        stop.cpu_ns.store(thread_cpu_ns() - before_ns, Ordering::Relaxed);
        // SAFETY: opened above.
        unsafe { libc::close(poll) };
        stop.ended.send(()).unwrap();
    });
    address
}

/// Marks completions of sends.
const SENT: u64 = 1 << 32;
const BUFFERS: u16 = 256;

fn ring(stop: Stop) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        pin(0);
        let mut ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(4096)
            .build(1024)
            .unwrap();
        let mut memory = vec![0_u8; usize::from(BUFFERS) * BUFFER];
        let provide = |id: u16, count: u16, memory: &mut [u8]| {
            let at = memory[usize::from(id) * BUFFER..].as_mut_ptr();
            opcode::ProvideBuffers::new(at, i32::try_from(BUFFER).unwrap(), count, 0, id)
                .build()
                .user_data(SENT)
        };
        let mut queue: Vec<squeue::Entry> = vec![provide(0, BUFFERS, &mut memory)];
        queue.push(
            opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
                .build()
                .user_data(0),
        );
        let before_ns = thread_cpu_ns();
        while !stop.stop.load(Ordering::Relaxed) {
            for entry in queue.drain(..) {
                // SAFETY: the buffers live as long as the ring.
                while unsafe { ring.submission().push(&entry) }.is_err() {
                    ring.submit().unwrap();
                }
            }
            ring.submit_and_wait(1).unwrap();
            let done: Vec<cqueue::Entry> = ring.completion().collect();
            for completion in done {
                let (token, result) = (completion.user_data(), completion.result());
                if token >= SENT {
                    // A send: its buffer may be used again.
                    if token > SENT {
                        queue.push(provide(u16::try_from(token & 0xffff).unwrap(), 1, &mut memory));
                    }
                    continue;
                }
                if token == 0 {
                    let receive = opcode::RecvMulti::new(types::Fd(result), 0).build();
                    queue.push(receive.user_data(result.unsigned_abs().into()));
                    continue;
                }
                let fd = types::Fd(i32::try_from(token).unwrap());
                if let (Some(id), 1..) = (cqueue::buffer_select(completion.flags()), result) {
                    let bytes = memory[usize::from(id) * BUFFER..].as_ptr();
                    let send = opcode::Send::new(fd, bytes, result.unsigned_abs()).build();
                    queue.push(send.user_data(SENT | 1 << 31 | u64::from(id)));
                }
                if !cqueue::more(completion.flags()) && result != 0 {
                    queue.push(opcode::RecvMulti::new(fd, 0).build().user_data(token));
                }
            }
        }
        stop.cpu_ns.store(thread_cpu_ns() - before_ns, Ordering::Relaxed);
        stop.ended.send(()).unwrap();
    });
    address
}
