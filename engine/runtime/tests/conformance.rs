//! The seam's conformance suite on glommio, on the file system of the build.
#![cfg(not(loom))]

use core::cell::RefCell;
use corelane_runtime::{GlommioEnv, RingMailbox, RuntimeConfig, run_shards};
use env::{Env as _, Mailbox as _};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// On the disk: the default temporary directory may be in memory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory beside the build")
}

fn config(data_dir: &std::path::Path, shards: u16) -> RuntimeConfig {
    RuntimeConfig {
        shards,
        pin: false,
        mailbox_messages: 64,
        ..RuntimeConfig::new(data_dir)
    }
}

#[test]
fn every_case_holds_on_one_shard() {
    for dedicated in [false, true] {
        let dir = scratch();
        let config = RuntimeConfig {
            dedicated,
            ..config(dir.path(), 1)
        };
        let ran = Arc::new(Mutex::new(Vec::new()));
        let names = ran.clone();
        run_shards(&config, move |env: GlommioEnv, _: RingMailbox<()>| {
            let names = names.clone();
            async move {
                for (name, case) in env::conformance::cases::<GlommioEnv>() {
                    eprintln!("{name}");
                    case(env.clone()).await;
                    names.lock().unwrap().push(name);
                }
                Ok::<(), String>(())
            }
        })
        .unwrap();
        assert_eq!(
            ran.lock().unwrap().len(),
            env::conformance::cases::<GlommioEnv>().len()
        );
    }
}

#[test]
fn every_mailbox_case_holds() {
    for shards in [2, 3] {
        for (name, case) in env::conformance::mailbox_cases::<GlommioEnv, RingMailbox<u64>>() {
            eprintln!("{name} on {shards} shards");
            let dir = scratch();
            run_shards(
                &config(dir.path(), shards),
                move |env: GlommioEnv, mailbox: RingMailbox<u64>| async move {
                    assert_eq!(mailbox.shards(), shards);
                    case(env, mailbox).await;
                    Ok::<(), String>(())
                },
            )
            .unwrap();
        }
    }
}

#[test]
fn a_socket_crosses_to_another_shard() {
    use env::{Listener as _, Net as _, Reader as _, Writer as _};
    let dir = scratch();
    run_shards(
        &config(dir.path(), 2),
        |env: GlommioEnv, mailbox: RingMailbox<corelane_runtime::Socket>| async move {
            let net = env.net();
            if mailbox.shard().0 == 0 {
                let listener = net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
                let got = Rc::new(RefCell::new(None));
                let (connecting, filled) = (net.clone(), got.clone());
                let address = listener.address();
                use env::Tasks as _;
                env.tasks().spawn(env::TaskClass::Foreground, async move {
                    *filled.borrow_mut() = Some(connecting.connect(address).await.unwrap());
                });
                let (reader, writer) = net.adopt(listener.accept().await.unwrap());
                mailbox
                    .try_send(base::ShardId(1), net.detach(reader, writer))
                    .unwrap();
                mailbox.flush();
                while got.borrow().is_none() {
                    env.tasks().yield_now().await;
                }
                let (mut reader, writer) = net.adopt(got.take().unwrap());
                assert_eq!(writer.try_write(b"hello"), Ok(5));
                let mut buf = [0; 16];
                assert_eq!(reader.read(&mut buf).await, Ok(5));
                assert_eq!(&buf[..5], b"HELLO");
            } else {
                mailbox.readable().await;
                let (_, socket) = mailbox.try_receive().unwrap();
                let (mut reader, writer) = net.adopt(socket);
                let mut buf = [0; 16];
                let len = reader.read(&mut buf).await.unwrap();
                buf.make_ascii_uppercase();
                assert_eq!(writer.try_write(&buf[..len]), Ok(len));
                assert_eq!(reader.read(&mut buf).await, Ok(0), "the other side has closed");
            }
            Ok::<(), String>(())
        },
    )
    .unwrap();
}
