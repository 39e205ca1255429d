//! Tables, manifests and descriptions of raft snapshots with arbitrary changes are refused in words or read.

mod exercise;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_changes(script in proptest::collection::vec(any::<u8>(), 0..60)) {
        exercise::patched(&script);
    }

    #[test]
    fn any_description(content in proptest::collection::vec(any::<u8>(), 0..60), at in 0_usize..400, byte: u8) {
        exercise::description(&content);
        let mut sound = exercise::sound_description();
        let at = at % sound.len();
        sound[at] = byte;
        exercise::description(&sound);
    }
}

/// The fuzzer starts from it: `UPDATE_EXPECT=1` writes it anew.
#[test]
fn the_seed_of_the_fuzzer_is_a_description() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/seeds/storage_snapshot/sound"
    );
    let sound = exercise::sound_description();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(std::path::Path::new(path).parent().expect("a file has a parent"))
            .expect("writable");
        std::fs::write(path, &sound).expect("writable");
    }
    assert_eq!(std::fs::read(path).expect("it is there"), sound);
    exercise::description(&sound);
}
