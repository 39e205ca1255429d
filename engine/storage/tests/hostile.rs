//! Tables and manifests with arbitrary changes are refused in words or read.

mod exercise;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_changes(script in proptest::collection::vec(any::<u8>(), 0..60)) {
        exercise::patched(&script);
    }
}
