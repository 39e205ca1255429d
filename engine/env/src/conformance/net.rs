//! Connections.

use crate::sync::oneshot;
use crate::{Address, Clock, Env, Listener, Net, NetError, Reader, TaskClass, Tasks, Writer};
use core::future::{Future, poll_fn};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

type ReaderOf<E> = <<E as Env>::Net as Net>::Reader;
type WriterOf<E> = <<E as Env>::Net as Net>::Writer;
type ListenerOf<E> = <<E as Env>::Net as Net>::Listener;

/// The loopback address, with a port that the implementation picks.
const ANY_PORT: Address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn listen<E: Env>(env: &E) -> ListenerOf<E> {
    env.net().listen(ANY_PORT).expect("a free port")
}

/// A connection: the halves of the side that connected, then those of the side that accepted.
async fn connection<E: Env>(env: &E) -> ((ReaderOf<E>, WriterOf<E>), (ReaderOf<E>, WriterOf<E>)) {
    let listener = listen(env);
    let (sender, receiver) = oneshot();
    let (net, address) = (env.net().clone(), listener.address());
    env.tasks().spawn(TaskClass::Foreground, async move {
        sender.send(net.connect(address).await);
    });
    let accepted = listener.accept().await.expect("somebody connects");
    let connected = receiver
        .await
        .expect("the task ran to its end")
        .expect("somebody listens");
    (env.net().adopt(connected), env.net().adopt(accepted))
}

async fn write_all(writer: &impl Writer, mut bytes: &[u8]) -> Result<(), NetError> {
    while !bytes.is_empty() {
        let sent = writer.try_write(bytes)?;
        bytes = &bytes[sent..];
        if sent == 0 {
            writer.writable().await?;
        }
    }
    Ok(())
}

async fn read_exactly(reader: &mut impl Reader, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut got = 0;
    while got < len {
        let some = reader
            .read(&mut bytes[got..])
            .await
            .expect("the connection holds");
        assert!(some > 0, "the stream ended after {got} of {len} bytes");
        got += some;
    }
    bytes
}

/// The stream has ended, in order or by a reset.
async fn has_ended(reader: &mut impl Reader) -> bool {
    let mut buf = [0; 64];
    reader.read(&mut buf).await.is_ok_and(|bytes| bytes == 0)
}

/// Bytes whose every position differs from its neighbours, so that a shift shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251).to_le_bytes_low()).collect()
}

trait LowByte {
    fn to_le_bytes_low(self) -> u8;
}

impl LowByte for usize {
    fn to_le_bytes_low(self) -> u8 {
        u8::try_from(self % 256).expect("below 256")
    }
}

pub(super) async fn bytes_arrive_in_order<E: Env>(env: E) {
    const BYTES: usize = 1 << 20;
    let ((_, writer), (mut reader, _back)) = connection(&env).await;
    env.tasks().spawn(TaskClass::Foreground, async move {
        // Uneven pieces, so that the pieces read differ from those written.
        for piece in pattern(BYTES).chunks(7919) {
            write_all(&writer, piece).await.expect("the reader is there");
        }
    });
    assert_eq!(read_exactly(&mut reader, BYTES).await, pattern(BYTES));
    assert!(has_ended(&mut reader).await);
}

pub(super) async fn a_listener_says_where_it_listens<E: Env>(env: E) {
    let (a, b) = (listen(&env), listen(&env));
    assert_ne!(a.address().port(), 0);
    assert_ne!(a.address(), b.address());
}

pub(super) async fn nobody_listens_there<E: Env>(env: E) {
    let listener = listen(&env);
    let address = listener.address();
    drop(listener);
    // The listener's socket may close a moment later.
    env.clock().sleep(Duration::from_millis(50)).await;
    let error = env
        .net()
        .connect(address)
        .await
        .map(drop)
        .expect_err("the listener is gone");
    assert_eq!(error.kind, std::io::ErrorKind::ConnectionRefused);
}

pub(super) async fn dropping_both_halves_ends_the_peers_stream<E: Env>(env: E) {
    let (near, (mut reader, _writer)) = connection(&env).await;
    let (near_reader, near_writer) = near;
    drop(near_reader);
    write_all(&near_writer, b"still here")
        .await
        .expect("one half is left");
    assert_eq!(read_exactly(&mut reader, 10).await, b"still here");
    drop(near_writer);
    assert!(has_ended(&mut reader).await);
}

pub(super) async fn what_was_sent_before_the_end_arrives<E: Env>(env: E) {
    let (near, (mut reader, _writer)) = connection(&env).await;
    write_all(&near.1, &pattern(5000))
        .await
        .expect("the reader is there");
    drop(near);
    // The bytes and the end may both be there before the first read; neither may hide the other.
    env.clock().sleep(Duration::from_millis(20)).await;
    assert_eq!(read_exactly(&mut reader, 5000).await, pattern(5000));
    assert!(has_ended(&mut reader).await);
    assert!(has_ended(&mut reader).await, "the end stays the end");
}

pub(super) async fn a_full_connection_takes_no_more_until_it_is_read<E: Env>(env: E) {
    /// More than any implementation buffers.
    const BYTES_MAX: usize = 256 << 20;
    let ((_, writer), (mut reader, _back)) = connection(&env).await;
    let piece = pattern(64 << 10);
    let mut sent = 0;
    loop {
        let some = writer.try_write(&piece[..]).expect("the reader is there");
        assert!(some <= piece.len());
        sent += some;
        assert!(sent < BYTES_MAX, "a connection without a bound");
        if some < piece.len() {
            break;
        }
    }
    // What fits may grow while the peer's side fills: go on until nothing does.
    while let some @ 1.. = writer.try_write(&piece[..1]).expect("the reader is there") {
        sent += some;
        assert!(sent < BYTES_MAX, "a connection without a bound");
    }
    let (sender, receiver) = oneshot();
    env.tasks().spawn(TaskClass::Foreground, async move {
        writer.writable().await.expect("the reader is there");
        let mut rest = 3;
        while rest > 0 {
            let some = writer.try_write(&[9; 3][..rest]).expect("the reader is there");
            rest -= some;
            if some == 0 {
                writer.writable().await.expect("the reader is there");
            }
        }
        sender.send(());
    });
    let mut last = Vec::new();
    let mut left = sent + 3;
    while left > 0 {
        let mut buf = vec![0; left.min(1 << 20)];
        let some = reader.read(&mut buf).await.expect("the connection holds");
        assert!(some > 0, "the stream ended with {left} bytes to come");
        left -= some;
        last.extend_from_slice(&buf[..some]);
        last.drain(..last.len().saturating_sub(3));
    }
    assert_eq!(last, [9; 3]);
    receiver.await.expect("the task ran to its end");
}

pub(super) async fn shutdown_ends_both_directions<E: Env>(env: E) {
    let ((mut near_reader, near_writer), (mut far_reader, _far_writer)) = connection(&env).await;
    let (sender, receiver) = oneshot();
    env.tasks().spawn(TaskClass::Foreground, async move {
        sender.send(has_ended(&mut near_reader).await);
    });
    env.tasks().yield_now().await;
    near_writer.shutdown();
    assert_eq!(receiver.await, Some(true), "the reader that waits sees the end");
    assert!(has_ended(&mut far_reader).await);
    assert!(near_writer.try_write(b"x").is_err());
}

pub(super) async fn writing_to_a_dead_connection_fails<E: Env>(env: E) {
    let ((near_reader, writer), far) = connection(&env).await;
    drop(far);
    // The first write may still be taken; the peer's refusal arrives a moment later.
    for _ in 0..100 {
        if writer.try_write(b"anybody there?").is_err() {
            drop(near_reader);
            return;
        }
        env.clock().sleep(Duration::from_millis(5)).await;
    }
    panic!("a hundred writes to a connection that is gone, and no error");
}

pub(super) async fn a_dropped_read_loses_nothing<E: Env>(env: E) {
    let ((_, writer), (mut reader, _back)) = connection(&env).await;
    for round in 0..20_u8 {
        let mut buf = [0; 16];
        {
            let mut read = pin!(reader.read(&mut buf));
            let early = poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_ready())).await;
            assert!(!early, "nothing was sent");
        }
        write_all(&writer, &[round; 4])
            .await
            .expect("the reader is there");
        assert_eq!(read_exactly(&mut reader, 4).await, [round; 4]);
    }
}

pub(super) async fn a_detached_connection_goes_on_where_it_was<E: Env>(env: E) {
    let ((_, writer), (mut reader, back)) = connection(&env).await;
    write_all(&writer, b"before after")
        .await
        .expect("the reader is there");
    assert_eq!(read_exactly(&mut reader, 7).await, b"before ");
    let socket = env.net().detach(reader, back);
    env.tasks().yield_now().await;
    let (mut reader, back) = env.net().adopt(socket);
    assert_eq!(read_exactly(&mut reader, 5).await, b"after");
    write_all(&writer, b"later").await.expect("the reader is there");
    assert_eq!(read_exactly(&mut reader, 5).await, b"later");
    drop((reader, back));
    // Nothing of the detached halves keeps the connection open.
    for _ in 0..100 {
        if writer.try_write(b"?").is_err() {
            return;
        }
        env.clock().sleep(Duration::from_millis(5)).await;
    }
    panic!("the connection outlived its halves");
}

pub(super) async fn many_connections_at_once<E: Env>(env: E) {
    const CONNECTIONS: u8 = 64;
    let listener = listen(&env);
    let mut ends = Vec::new();
    for at in 0..CONNECTIONS {
        let (sender, receiver) = oneshot();
        let (net, address) = (env.net().clone(), listener.address());
        env.tasks().spawn(TaskClass::Foreground, async move {
            let socket = net.connect(address).await.expect("somebody listens");
            let (mut reader, writer) = net.adopt(socket);
            write_all(&writer, &[at; 100]).await.expect("the echo is there");
            sender.send(read_exactly(&mut reader, 100).await == [at; 100]);
        });
        ends.push(receiver);
    }
    for _ in 0..CONNECTIONS {
        let socket = listener.accept().await.expect("somebody connects");
        let (mut reader, writer) = env.net().adopt(socket);
        env.tasks().spawn(TaskClass::Foreground, async move {
            let echo = read_exactly(&mut reader, 100).await;
            write_all(&writer, &echo).await.expect("the client is there");
        });
    }
    for end in ends {
        assert_eq!(end.await, Some(true));
    }
}

pub(super) async fn two_listeners_of_one_process_share_an_address<E: Env>(env: E) {
    let first = listen(&env);
    let second = env.net().listen(first.address()).expect("the same process may");
    assert_eq!(first.address(), second.address());
    drop(first);
    let (sender, receiver) = oneshot();
    let (net, address) = (env.net().clone(), second.address());
    env.tasks().spawn(TaskClass::Foreground, async move {
        sender.send(net.connect(address).await.is_ok());
    });
    second
        .accept()
        .await
        .map(drop)
        .expect("the other listener goes on");
    assert_eq!(receiver.await, Some(true));
}
