//! A coordinator dies at every step of a transfer. Nobody else waits for longer than a second, with the settings that nodes have by
//! default, and everybody sees the same outcome.
//!
//! `cargo test -p corelane-system --test dead_coordinators -- --nocapture` prints the table; `CORELANE_DEATHS` draws another one.

use core::time::Duration;
use corelane_system::bank::deaths;
use corelane_system::swarm::number;

#[test]
fn others_wait_for_a_second_at_most() {
    let deaths = deaths::measure(number("CORELANE_DEATHS", 1));
    for death in &deaths {
        println!("{death}");
    }
    let longest = deaths.iter().map(|death| death.waited).max();
    println!("{} deaths, the longest wait {longest:?}", deaths.len());
    assert!(deaths.len() > 30, "{} deaths", deaths.len());
    assert!(deaths.iter().any(|death| death.happened) && deaths.iter().any(|death| !death.happened));
    for death in &deaths {
        assert!(death.waited <= Duration::from_secs(1), "{death}");
    }
}
