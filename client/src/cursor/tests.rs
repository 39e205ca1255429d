//! A cursor against servers that cut their pages in any way, and against servers that cheat.

use super::*;
use proptest::prelude::*;

const TS: Timestamp = Timestamp::new(9, 0);

fn page(keys: &[&str], resume: Option<&str>, done: bool) -> Page {
    let mut page = Page {
        heads: Vec::new(),
        data: Vec::new(),
        resume: resume.map(|key| key.as_bytes().to_vec()),
        read_ts: TS,
        done,
    };
    for key in keys {
        let start = page.data.len();
        page.heads.push(Head {
            start,
            key_bytes: key.len(),
            value_bytes: 1,
            ts: TS,
        });
        page.data.extend_from_slice(key.as_bytes());
        page.data.push(b'v');
    }
    page
}

fn cursor(start: &str, end: Option<&str>, reverse: bool) -> Cursor {
    Cursor::new(
        Span::new(start.as_bytes(), end.map(str::as_bytes)),
        reverse,
        ReadAt::Newest,
        None,
    )
}

#[track_caller]
fn refused(cursor: &Cursor, mut page: Page, why: &str) {
    let error = cursor.clone().on_page(&mut page).unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(error.code(), wire::Code::UnexpectedReply);
}

#[test]
fn servers_that_cheat_are_found_out() {
    for reverse in [false, true] {
        let cursor = cursor("b", Some("m"), reverse);
        refused(&cursor, page(&["a"], None, true), "outside the span");
        refused(&cursor, page(&["m"], None, true), "outside the span");
        refused(&cursor, page(&["c", "c"], None, true), "out of order");
        let backwards = if reverse { ["c", "d"] } else { ["d", "c"] };
        refused(&cursor, page(&backwards, None, true), "out of order");
        refused(&cursor, page(&["c"], None, false), "where to go on");
        let behind = if reverse { "z" } else { "a" };
        refused(&cursor, page(&[], Some(behind), true), "went back");
        let mut later = cursor.clone();
        later
            .on_page(&mut page(&["e"], Some("e"), false))
            .unwrap_or_else(|error| {
                // Forwards, going on at a row that was delivered would deliver it twice.
                assert!(!reverse && error.to_string().contains("went back"), "{error}");
            });
        let mut other_ts = page(&["c"], None, true);
        other_ts.read_ts = Timestamp::new(10, 0);
        let mut pinned = Cursor::new(Span::all(), reverse, ReadAt::At(TS), None);
        assert!(pinned.on_page(&mut other_ts).is_err());
    }
}

#[test]
fn a_limit_ends_the_scan_even_if_the_server_sends_more() {
    let mut cursor = Cursor::new(Span::all(), false, ReadAt::Newest, Some(3));
    let mut first = page(&["a", "b"], Some("c"), false);
    cursor.on_page(&mut first).unwrap();
    assert_eq!((first.len(), cursor.is_finished()), (2, false));
    assert_eq!(cursor.request(1, 1).rows_max, Some(1));
    let mut second = page(&["c", "d"], Some("e"), false);
    cursor.on_page(&mut second).unwrap();
    assert_eq!((second.len(), cursor.is_finished()), (1, true));
}

#[test]
fn empty_spans_and_limits_ask_for_nothing() {
    assert!(cursor("b", Some("b"), false).is_finished());
    assert!(Cursor::new(Span::all(), false, ReadAt::Newest, Some(0)).is_finished());
    assert!(!cursor("", None, true).is_finished());
}

proptest! {
    /// Whatever the bounds of ranges, the sizes of pages and the moments at which streams are lost: every key of the span
    /// is delivered once, in order.
    #[test]
    fn every_key_once_and_in_order(
        keys in prop::collection::btree_set("[a-e]{1,3}", 0..40),
        bounds in prop::collection::btree_set("[a-e]{1,2}", 0..5),
        span in ("[a-e]{0,2}", prop::option::of("[a-e]{1,2}")),
        cuts in prop::collection::vec((1..5_usize, any::<bool>()), 1..20),
        reverse: bool,
    ) {
        let (start, end) = span;
        let span = Span::new(start.as_bytes(), end.as_deref().map(str::as_bytes));
        let mut cursor = Cursor::new(span.clone(), reverse, ReadAt::Newest, None);
        let mut delivered = Vec::new();
        let mut cuts = cuts.iter().cycle();
        for _ in 0..500 {
            if cursor.is_finished() {
                break;
            }
            let (rows, lost) = cuts.next().copied().unwrap_or((1, false));
            let mut page = serve(&keys, &bounds, cursor.span(), reverse, rows);
            cursor.on_page(&mut page).unwrap();
            delivered.extend(page.iter().map(|(key, _, _)| key.to_vec()));
            if lost {
                // A lost stream loses nothing: the next request says where to go on.
                let request = cursor.request(1, 1);
                assert_eq!(request.start, &*cursor.span().start);
            }
        }
        prop_assert!(cursor.is_finished());
        let mut expected: Vec<_> = keys.iter().map(|key| key.clone().into_bytes()).filter(|key| span.contains(key)).collect();
        if reverse {
            expected.reverse();
        }
        prop_assert_eq!(delivered, expected);
    }
}

/// What a server answers for the rest of a span: one page of the first range of it.
fn serve(
    keys: &std::collections::BTreeSet<String>,
    bounds: &std::collections::BTreeSet<String>,
    rest: &Span,
    reverse: bool,
    rows: usize,
) -> Page {
    let mut edges: Vec<Vec<u8>> = vec![Vec::new()];
    edges.extend(bounds.iter().map(|bound| bound.clone().into_bytes()));
    let ranges = edges
        .iter()
        .enumerate()
        .map(|(at, start)| Span::new(start, edges.get(at + 1).map(|end| &end[..])));
    let parts = ranges.filter_map(|range| range.intersect(&rest.start, rest.end.as_deref()));
    let mut parts: Vec<Span> = parts.collect();
    if reverse {
        parts.reverse();
    }
    let part = &parts[0];
    let mut inside: Vec<&str> = keys
        .iter()
        .map(String::as_str)
        .filter(|key| part.contains(key.as_bytes()))
        .collect();
    if reverse {
        inside.reverse();
    }
    let next = inside.get(rows).copied();
    inside.truncate(rows);
    let resume = match next {
        Some(key) if reverse => Some(format!("{key}\0")),
        Some(key) => Some(key.to_owned()),
        None if reverse => {
            let start = core::str::from_utf8(&part.start)
                .expect("keys are text")
                .to_owned();
            (*part.start > *rest.start).then_some(start)
        }
        None => {
            let end = part
                .end
                .as_deref()
                .map(|end| core::str::from_utf8(end).expect("keys are text").to_owned());
            end.filter(|_| part.end != rest.end)
        }
    };
    page(&inside, resume.as_deref(), next.is_none())
}
