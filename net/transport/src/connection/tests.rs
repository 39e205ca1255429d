//! Windows and time-outs, without a network.

use super::*;

fn at_ms(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn open(config: &TransportConfig) -> Connection {
    let mut connection = Connection::new(at_ms(0), config);
    connection.on_hello(Phase::Open);
    connection
}

#[test]
fn the_window_follows_the_size_of_replies() {
    let config = TransportConfig {
        outbox_bytes_max: 1 << 20,
        requests_max: 100,
        ..TransportConfig::default()
    };
    let mut connection = open(&config);
    let window = |connection: &mut Connection| {
        let before = connection.requests();
        while connection.may_take(&config) {
            connection.on_request(true);
        }
        let window = connection.requests();
        for _ in before..window {
            connection.on_reply(0, true);
        }
        window
    };
    assert_eq!(window(&mut connection), WINDOW_START);
    // All answered by empty replies: the next window is wide, up to the limit.
    assert!(window(&mut connection) > 100 / 2);
    assert_eq!(window(&mut connection), 100);
    connection.on_request(true);
    connection.on_reply(4 << 20, true);
    assert_eq!(
        window(&mut connection),
        1,
        "one reply at a time while they are larger than what may wait"
    );
}

#[test]
fn requests_without_an_answer_and_pages_in_between_do_not_move_the_window() {
    let config = TransportConfig {
        requests_max: 1,
        ..TransportConfig::default()
    };
    let mut connection = open(&config);
    connection.on_request(false);
    assert!(connection.may_take(&config));
    connection.on_request(true);
    connection.on_reply(10, false);
    assert!(!connection.may_take(&config));
    connection.on_reply(10, true);
    assert!(connection.may_take(&config));
}

#[test]
fn each_time_out_has_its_clock() {
    let config = TransportConfig {
        frame_rate_min: 1000,
        ..TransportConfig::default()
    };
    let hello = Connection::new(at_ms(0), &config);
    assert_eq!(hello.expired(at_ms(4_999), &config), None);
    assert_eq!(
        hello.expired(at_ms(5_000), &config),
        Some(CloseReason::HelloTimeout)
    );

    let mut frame = open(&config);
    assert_eq!(
        frame.expired(at_ms(1_000_000), &config),
        None,
        "an idle connection may stay"
    );
    frame.on_incomplete(100, true, at_ms(0));
    frame.on_incomplete(2_000, false, at_ms(9_000));
    assert_eq!(
        frame.expired(at_ms(11_999), &config),
        None,
        "2,000 bytes have earned two seconds"
    );
    assert_eq!(
        frame.expired(at_ms(12_000), &config),
        Some(CloseReason::FrameTimeout)
    );
    frame.on_incomplete(50, true, at_ms(12_000));
    assert_eq!(
        frame.expired(at_ms(21_000), &config),
        None,
        "another frame, another clock"
    );
    frame.on_incomplete(0, true, at_ms(21_000));
    assert_eq!(frame.expired(at_ms(100_000), &config), None);

    let mut send = open(&config);
    send.on_request(true);
    send.on_appended(10, at_ms(1_000));
    assert_eq!(send.expired(at_ms(60_999), &config), None);
    assert_eq!(
        send.expired(at_ms(61_000), &config),
        Some(CloseReason::SendTimeout)
    );
    send.on_sent(5, at_ms(30_000));
    assert_eq!(
        send.expired(at_ms(61_000), &config),
        None,
        "some bytes were sent meanwhile"
    );
    send.on_sent(0, at_ms(31_000));
    assert_eq!(send.expired(at_ms(1_000_000), &config), None);
}

#[test]
fn a_connection_that_is_not_read_cannot_be_blamed_for_its_frame() {
    let config = TransportConfig::default();
    let mut connection = open(&config);
    connection.on_incomplete(8, true, at_ms(0));
    connection.on_paused();
    assert!(connection.is_paused());
    assert_eq!(connection.expired(at_ms(50_000), &config), None);
    connection.on_resumed(at_ms(50_000));
    assert_eq!(
        connection.expired(at_ms(59_999), &config),
        None,
        "it has its time again"
    );
    assert_eq!(
        connection.expired(at_ms(60_000), &config),
        Some(CloseReason::FrameTimeout)
    );
}
