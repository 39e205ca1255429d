//! One shard's [`Env`].

use crate::disk::DiskFs;
use crate::net::TcpNet;
use crate::reactor::Reactor;
use crate::stall::now_ns;
use crate::tasks::TaskQueues;
use base::Prng;
use core::cell::RefCell;
use core::future::Future;
use core::time::Duration;
use env::{Env, Instant};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The clocks of the machine.
#[derive(Clone)]
pub struct MonotonicClock(Rc<Reactor>);

impl env::Clock for MonotonicClock {
    fn now(&self) -> Instant {
        // Counted from the machine's start, so that the shards of a process may compare instants.
        Instant(now_ns())
    }

    fn wall_ns(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.sleep_until(now_ns().saturating_add(duration_ns))
    }
}

/// One shard's world.
#[derive(Clone)]
pub struct GlommioEnv(Rc<Parts>);

struct Parts {
    clock: MonotonicClock,
    disk: DiskFs,
    net: TcpNet,
    tasks: TaskQueues,
    prng: RefCell<Prng>,
}

impl GlommioEnv {
    pub(crate) fn new(reactor: Rc<Reactor>, disk: DiskFs, net: TcpNet, tasks: TaskQueues) -> Self {
        let prng = RefCell::new(Prng::new(system_seed()));
        Self(Rc::new(Parts {
            clock: MonotonicClock(reactor),
            disk,
            net,
            tasks,
            prng,
        }))
    }
}

/// 64 bits from the operating system.
fn system_seed() -> u64 {
    let mut seed = [0_u8; 8];
    // SAFETY: eight writable bytes. So few bytes are never cut short once the kernel's pool is ready, which the call awaits.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    assert_eq!(got, 8, "the operating system gave no random bytes");
    u64::from_ne_bytes(seed)
}

impl Env for GlommioEnv {
    type Clock = MonotonicClock;
    type Disk = DiskFs;
    type Net = TcpNet;
    type Tasks = TaskQueues;

    fn clock(&self) -> &MonotonicClock {
        &self.0.clock
    }

    fn disk(&self) -> &DiskFs {
        &self.0.disk
    }

    fn net(&self) -> &TcpNet {
        &self.0.net
    }

    fn tasks(&self) -> &TaskQueues {
        &self.0.tasks
    }

    fn prng(&self) -> Prng {
        self.0.prng.borrow_mut().fork()
    }
}
