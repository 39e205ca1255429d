//! What must hold of the record formats for any bytes. Run on seeds by `hostile.rs`, and by the fuzz target `import_records`.

use corelane_cli::record::reader::RecordReader;
use corelane_cli::record::{Column, Format, Layout};

/// The first byte chooses a layout, the rest is the input.
pub(crate) fn records(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else {
        return;
    };
    let layout = layout(choice);
    let mut reader = RecordReader::new(text, layout.clone(), 0, 1);
    let mut end = 0;
    while let Some(item) = reader.next_item().expect("memory can be read") {
        let start = usize::try_from(end).expect("it fits");
        let stop = usize::try_from(item.end).expect("it fits");
        assert!(
            start < stop && stop <= text.len(),
            "{start}..{stop} of {}",
            text.len()
        );
        end = item.end;
        let record = &text[start..stop];
        assert_eq!(layout.parse(record), item.pair, "the reader and the parser agree");
        if let Ok(Some((key, value))) = item.pair {
            written(&layout, record, &key, &value);
        }
    }
    assert_eq!(end, text.len() as u64, "nothing is left out");
}

fn layout(choice: u8) -> Layout {
    let format = [Format::Tsv, Format::Csv, Format::Jsonl][usize::from(choice % 3)];
    let column = |bits: u8| (!bits.is_multiple_of(4)).then(|| Column::Number(usize::from(bits % 4) - 1));
    Layout {
        key: column(choice / 3),
        value: column(choice / 12),
        escape: format == Format::Tsv && choice % 2 == 1,
        quote_value: format == Format::Csv && choice % 2 == 1,
        ..Layout::new(format)
    }
}

/// What was read can be written, or is refused with a reason; and then reads the same.
fn written(layout: &Layout, record: &[u8], key: &[u8], value: &[u8]) {
    let mut out = Vec::new();
    if layout.write(key, value, &mut out).is_err() {
        assert!(out.is_empty(), "a refused record leaves nothing behind");
        return;
    }
    assert_eq!(layout.record_end(&out, false), Some(out.len()), "one record");
    let value_column = layout.quote_value.then_some(Column::Number(1));
    let plain = Layout {
        key: None,
        value: value_column,
        ..layout.clone()
    };
    assert_eq!(plain.parse(&out), Ok(Some((key.to_vec(), value.to_vec()))));
    if layout.format == Format::Tsv && layout.key.is_none() && layout.value.is_none() {
        let line = record.strip_suffix(b"\n").unwrap_or(record);
        assert_eq!(&out[..out.len() - 1], line, "a TSV line comes back byte for byte");
    }
}
