//! The formats against themselves: what was written is read back, what was read is written back.

use super::reader::RecordReader;
use super::*;
use proptest::prelude::*;

fn layout(format: Format) -> Layout {
    Layout::new(format)
}

fn escaped_tsv() -> Layout {
    Layout {
        escape: true,
        ..layout(Format::Tsv)
    }
}

fn parsed(layout: &Layout, text: &str) -> (String, String) {
    let (key, value) = layout.parse(text.as_bytes()).unwrap().unwrap();
    (String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap())
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn written(layout: &Layout, key: &[u8], value: &[u8]) -> Result<String, Fault> {
    let mut out = Vec::new();
    layout.write(key, value, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn tsv_takes_bytes_as_they_stand() {
    let tsv = layout(Format::Tsv);
    assert_eq!(
        parsed(&tsv, "serde\t1.0.2\tA framework\\n\n"),
        pair("serde", "1.0.2\tA framework\\n")
    );
    assert_eq!(parsed(&tsv, "windows\tline\r\n"), pair("windows", "line\r"));
    assert_eq!(parsed(&tsv, "\t"), pair("", ""));
    assert_eq!(
        tsv.parse(b"no tab\n"),
        Err(Fault::MissingColumn { column: 2, found: 1 })
    );
    assert_eq!(tsv.parse(b"\n"), Ok(None));
    assert_eq!(written(&tsv, b"k", b"a\tb").unwrap(), "k\ta\tb\n");
    assert_eq!(written(&tsv, b"k\t", b""), Err(Fault::UnwritableKey("a tab")));
    assert_eq!(
        written(&tsv, b"k", b"\n"),
        Err(Fault::UnwritableValue("a line end"))
    );
}

#[test]
fn tsv_escapes_as_its_documentation_says() {
    let tsv = escaped_tsv();
    for (stored, file) in [
        ("a\nb", r"a\nb"),
        (r"a\nb", r"a\\nb"),
        ("a\\\nb", r"a\\\nb"),
        (r"C:\dir", r"C:\dir"),
    ] {
        assert_eq!(
            written(&tsv, b"k", stored.as_bytes()).unwrap(),
            format!("k\t{file}\n")
        );
        assert_eq!(parsed(&tsv, &format!("k\t{file}\n")), pair("k", stored));
    }
    assert_eq!(written(&tsv, b"a\tb", b"a\tb").unwrap(), "a\\tb\ta\tb\n");
}

#[test]
fn columns_are_chosen_by_number_or_name() {
    let mut tsv = Layout {
        key: Some(Column::Number(1)),
        ..layout(Format::Tsv)
    };
    assert_eq!(parsed(&tsv, "a\tb\tc"), pair("b", "a\tc"));
    tsv.value = Some(Column::Number(2));
    assert_eq!(parsed(&tsv, "a\tb\tc"), pair("b", "c"));
    assert_eq!(
        tsv.parse(b"a\tb"),
        Err(Fault::MissingColumn { column: 3, found: 2 })
    );

    let name = |name: &str| Some(Column::Name(name.to_owned()));
    let mut csv = Layout {
        key: name("id"),
        value: name("full, name"),
        ..layout(Format::Csv)
    };
    assert!(csv.needs_header());
    csv.resolve(b"size,id,\"full, name\"\r\n").unwrap();
    assert_eq!(
        parsed(&csv, "9,7,\"Doe, \"\"J\"\"\"\r\n"),
        pair("7", "Doe, \"J\"")
    );
    let mut lost = Layout {
        key: name("nowhere"),
        ..layout(Format::Csv)
    };
    assert_eq!(
        lost.resolve(b"a,b\n"),
        Err(Fault::MissingName("nowhere".to_owned()))
    );
}

#[test]
fn csv_follows_the_quotes() {
    let csv = layout(Format::Csv);
    assert_eq!(parsed(&csv, "\"a,b\",c,\"d\ne\"\n"), pair("a,b", "c,\"d\ne\""));
    assert_eq!(
        parsed(&csv, "5\" disk,x\n"),
        pair("5\" disk", "x"),
        "a quote inside an unquoted field is a character"
    );
    assert_eq!(csv.parse(b"\"a\"b,c\n"), Err(Fault::AfterQuote));
    assert_eq!(csv.parse(b"\"a,c\n"), Err(Fault::OpenQuote));
    assert_eq!(csv.record_end(b"\"a\nb\",c\nnext", false), Some(8));
    assert_eq!(csv.record_end(b"\"a\nb", false), None);
    assert_eq!(
        written(&csv, b"a,\"b\"", b"c,d").unwrap(),
        "\"a,\"\"b\"\"\",c,d\n"
    );
    assert!(matches!(
        written(&csv, b"a", b"\"open"),
        Err(Fault::UnwritableValue(_))
    ));
    let one_field = Layout {
        quote_value: true,
        ..csv
    };
    assert_eq!(
        written(&one_field, b"a", b"\"open\n").unwrap(),
        "a,\"\"\"open\n\"\n"
    );
}

#[test]
fn json_lines_take_named_or_first_fields() {
    let jsonl = layout(Format::Jsonl);
    assert_eq!(parsed(&jsonl, r#"{"key":"a\n","value":"b"}"#), pair("a\n", "b"));
    assert_eq!(parsed(&jsonl, r#"{"value":[1, 2],"key":7}"#), pair("7", "[1, 2]"));
    assert_eq!(
        parsed(&jsonl, r#"{"name":"x","z":1.50,"a":null}"#),
        pair("x", r#"{"z":1.50,"a":null}"#),
        "order and digits kept"
    );
    assert_eq!(
        jsonl.parse(br#"{"key_hex":"ff00","value_hex":""}"#),
        Ok(Some((vec![0xff, 0], vec![])))
    );
    assert_eq!(jsonl.parse(br#"{"key_hex":"fg"}"#), Err(Fault::JsonHex));
    assert_eq!(jsonl.parse(br#"{"key":null,"value":1}"#), Err(Fault::JsonKey));
    assert_eq!(jsonl.parse(b"{}"), Err(Fault::MissingName("key".to_owned())));
    assert!(matches!(jsonl.parse(b"[1]"), Err(Fault::Json(_))));
    assert_eq!(
        written(&jsonl, b"\xff", "é\n".as_bytes()).unwrap(),
        "{\"key_hex\":\"ff\",\"value\":\"é\\n\"}\n"
    );
}

#[test]
fn the_reader_knows_lines_and_offsets() {
    let text = "\"a\nb\",1\n\nc,2\nbad\nd,3";
    // One byte at a time: no record may depend on how the input arrives.
    let mut reader = RecordReader::new(OneByte(text.as_bytes()), layout(Format::Csv), 100, 5);
    let mut seen = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        let key = item
            .pair
            .map(|pair| pair.map(|(key, _)| String::from_utf8(key).unwrap()));
        seen.push((item.line, item.end, key));
    }
    let missing = Fault::MissingColumn { column: 2, found: 1 };
    let key = |key: &str| Ok(Some(key.to_owned()));
    assert_eq!(
        seen,
        [
            (5, 108, key("a\nb")),
            (7, 109, Ok(None)),
            (8, 113, key("c")),
            (9, 117, Err(missing)),
            (10, 120, key("d"))
        ]
    );
}

#[test]
fn a_record_without_end_is_refused_in_bounded_memory() {
    struct Endless;
    impl std::io::Read for Endless {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            out.fill(b'x');
            Ok(out.len())
        }
    }
    let mut reader = RecordReader::new(Endless, layout(Format::Tsv), 0, 1);
    let item = reader.next_item().unwrap().unwrap();
    assert_eq!(
        item.pair,
        Err(Fault::TooLong {
            bytes_max: reader::RECORD_BYTES_MAX
        })
    );
    assert_eq!(reader.next_item().unwrap(), None);
}

struct OneByte<'a>(&'a [u8]);

impl std::io::Read for OneByte<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(0);
        };
        out[0] = *first;
        self.0 = rest;
        Ok(1)
    }
}

/// Bytes rich in what the formats treat specially.
fn tricky() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => prop::sample::select(b"\\nt\n\t\r\",x".to_vec()),
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..24)
}

fn without(bytes: &[u8], excluded: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|b| !excluded.contains(b)).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(key in tricky(), value in tricky()) {
        let quoting = Layout { quote_value: true, ..layout(Format::Csv) };
        let one_field = Layout { value: Some(Column::Number(1)), ..quoting.clone() };
        let layouts = [
            (layout(Format::Tsv), layout(Format::Tsv)),
            (escaped_tsv(), escaped_tsv()),
            (layout(Format::Csv), layout(Format::Csv)),
            (quoting, one_field),
            (layout(Format::Jsonl), layout(Format::Jsonl)),
        ];
        for (at, (write, read)) in layouts.iter().enumerate() {
            let mut out = Vec::new();
            let result = write.write(&key, &value, &mut out);
            if result.is_err() {
                prop_assert!(at == 0 || at == 2, "{:?} refused by {:?}", result, write);
                prop_assert!(out.is_empty());
                continue;
            }
            prop_assert_eq!(read.record_end(&out, false), Some(out.len()));
            prop_assert_eq!(read.parse(&out), Ok(Some((key.clone(), value.clone()))), "{:?}", write);
        }
    }

    #[test]
    fn tsv_lines_come_back_byte_for_byte(key in tricky(), value in tricky()) {
        let mut line = without(&key, b"\t\n");
        line.push(b'\t');
        line.extend(without(&value, b"\n"));
        line.push(b'\n');
        for layout in [layout(Format::Tsv), escaped_tsv()] {
            let (key, value) = layout.parse(&line).unwrap().unwrap();
            let mut out = Vec::new();
            layout.write(&key, &value, &mut out).unwrap();
            prop_assert_eq!(&out, &line);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in tricky(), at in 0_usize..4) {
        for format in [Format::Tsv, Format::Csv, Format::Jsonl] {
            for value in [None, Some(Column::Number(at))] {
                let layout = Layout { key: Some(Column::Number(at / 2)), value, ..layout(format) };
                let mut reader = RecordReader::new(&text[..], layout, 0, 1);
                let mut end = 0;
                while let Some(item) = reader.next_item().unwrap() {
                    prop_assert!(item.end > end);
                    end = item.end;
                }
                prop_assert_eq!(end, text.len() as u64);
            }
        }
    }
}
