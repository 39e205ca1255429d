//! Round trips of every message, for a start.
use crate::outbox::encode_one;
use crate::*;
use base::RequestId;

#[test]
fn put_round_trips() {
    let put = request::Put {
        id: convert::WriteIdV1 {
            client: [7; 16],
            seq: 3,
            acked_below: 2,
        },
        key: b"key",
        value: b"value",
        deadline_ms: 5000,
    };
    let bytes = encode_one(RequestId(9), &put).unwrap();
    let mut reader = FrameReader::new(1 << 20);
    reader.extend(&bytes);
    let frame = reader.next().unwrap().unwrap();
    let RequestRef::Put(got) = decode_request(&frame).unwrap() else {
        panic!()
    };
    assert_eq!(
        (&*got.key, &*got.value, got.deadline_ms.to_native()),
        (&b"key"[..], &b"value"[..], 5000)
    );
}
