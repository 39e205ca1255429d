//! The cases that every implementation of the seam must pass.
//!
//! A case is an async function over `E: Env` that panics when the contract is broken. It names its own files and ports, so
//! that cases may run one after the other on one env; each starts in a data directory that no earlier case has used under the
//! same names.
//!
//! ```text
//!    cases::<GlommioEnv>() ──► runtime's test          cases::<SimEnv>() ──► sim's test
//!          └────────────── the same functions ───────────────┘
//! ```
//!
//! What is not here: crash behaviour (the simulator's own tests have the fault model), and anything that depends on speed.

mod clock;
mod disk;
mod mailbox;
mod net;

use crate::{Env, Mailbox};
use core::future::Future;
use core::pin::Pin;

/// A boxed case.
pub type Running = Pin<Box<dyn Future<Output = ()>>>;
/// A case's name and how to start it.
pub type Case<E> = (&'static str, fn(E) -> Running);
/// A case's name and how to start it on one shard. It is started on all shards of a node at once.
pub type MailboxCase<E, B> = (&'static str, fn(E, B) -> Running);

macro_rules! listed {
    ($($module:ident :: $case:ident),* $(,)?) => {
        vec![$((
            concat!(stringify!($module), "::", stringify!($case)),
            (|env| Box::pin($module::$case(env))) as fn(E) -> Running,
        )),*]
    };
}

/// All cases that need one shard.
#[must_use]
pub fn cases<E: Env>() -> Vec<Case<E>> {
    listed![
        clock::monotonic_clock_never_goes_back,
        clock::sleeps_end_in_the_order_of_their_deadlines,
        clock::a_dropped_sleep_is_forgotten,
        clock::tasks_run_beside_the_one_that_spawned_them,
        clock::yielding_lets_every_ready_task_run,
        clock::generators_differ,
        disk::what_was_written_is_read_back,
        disk::bytes_past_the_end_read_as_zero,
        disk::several_writes_are_in_flight,
        disk::writes_in_durable_mode_need_no_sync,
        disk::create_empties_an_existing_file,
        disk::set_len_cuts_and_extends,
        disk::a_missing_file_is_not_found,
        disk::rename_replaces,
        disk::a_renamed_file_stays_open,
        disk::hard_links_share_content,
        disk::remove_takes_files_and_empty_directories,
        disk::a_removed_file_stays_readable,
        disk::directories_are_created_with_their_parents,
        disk::list_is_sorted_and_complete,
        disk::a_dropped_write_is_still_written,
        disk::buffers_are_zeroed_and_come_back,
        net::bytes_arrive_in_order,
        net::a_listener_says_where_it_listens,
        net::nobody_listens_there,
        net::dropping_both_halves_ends_the_peers_stream,
        net::what_was_sent_before_the_end_arrives,
        net::a_full_connection_takes_no_more_until_it_is_read,
        net::shutdown_ends_both_directions,
        net::writing_to_a_dead_connection_fails,
        net::a_dropped_read_loses_nothing,
        net::a_detached_connection_goes_on_where_it_was,
        net::many_connections_at_once,
        net::two_listeners_of_one_process_share_an_address,
    ]
}

macro_rules! listed_mailbox {
    ($($case:ident),* $(,)?) => {
        vec![$((
            concat!("mailbox::", stringify!($case)),
            (|env, mailbox| Box::pin(mailbox::$case(env, mailbox))) as fn(E, B) -> Running,
        )),*]
    };
}

/// All cases that need several shards: at least two.
#[must_use]
pub fn mailbox_cases<E: Env, B: Mailbox<u64>>() -> Vec<MailboxCase<E, B>> {
    listed_mailbox![
        messages_arrive_once_and_in_order,
        a_full_ring_hands_the_message_back,
        a_parked_shard_is_woken,
        every_shard_talks_to_every_other,
    ]
}
