//! How far an import has come, in a small file beside the input.
//!
//! Everything before `offset` is acknowledged by the node, hence durable there. Records behind it may be there too: importing
//! them again writes the same values. The file is replaced as a whole (written aside, synced, renamed), so that a crash
//! leaves the old or the new one.

use crate::error::{CliError, Exit, code};
use crate::record::Layout;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the file's layout.
const VERSION: u32 = 1;
/// Bytes from the start of the input that the fingerprint covers.
const FINGERPRINT_BYTES: u64 = 64 << 10;

/// What an import was given: a checkpoint serves only the same import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// Bytes of the input.
    pub(crate) size: u64,
    /// CRC-32C of its first 64 KiB.
    pub(crate) fingerprint: u32,
    /// How records are read; resolved column names included.
    pub(crate) layout: Layout,
    /// Whether the first record is a header.
    pub(crate) header: bool,
    /// The node imported into.
    pub(crate) connect: String,
    /// What was put before each key.
    pub(crate) prefix: String,
}

impl Source {
    /// The size and fingerprint of a file.
    pub(crate) fn identify(path: &Path) -> io::Result<(u64, u32)> {
        let file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        let mut head = Vec::new();
        file.take(FINGERPRINT_BYTES).read_to_end(&mut head)?;
        Ok((size, base::checksum::crc32c(&head)))
    }
}

/// How far an import has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    version: u32,
    pub(crate) source: Source,
    /// Where the first record that may be missing starts.
    pub(crate) offset: u64,
    /// The number of its line.
    pub(crate) line: u64,
    /// Records acknowledged before it.
    pub(crate) records: u64,
    /// Lines skipped before it.
    pub(crate) skipped: u64,
}

impl Checkpoint {
    pub(crate) fn new(source: Source, offset: u64, line: u64) -> Self {
        Self {
            version: VERSION,
            source,
            offset,
            line,
            records: 0,
            skipped: 0,
        }
    }

    /// The checkpoint's usual place: beside the input.
    pub(crate) fn path_beside(input: &Path) -> PathBuf {
        let mut name = input.file_name().unwrap_or_default().to_owned();
        name.push(".corelane-import");
        input.with_file_name(name)
    }

    /// Reads the checkpoint at `path`, if there is one, and makes sure that it belongs to `source`.
    pub(crate) fn load(path: &Path, source: &Source) -> Result<Option<Self>, CliError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::file("cannot read the checkpoint", path, &error)),
        };
        let refused = |why: &str| {
            CliError::new(
                code::CHECKPOINT,
                Exit::Data,
                format!("{} is not a checkpoint of this import", path.display()),
            )
            .cause(why)
            .help("pass --restart to import from the first record, or remove the file")
        };
        let found: Self = serde_json::from_slice(&text).map_err(|error| refused(&error.to_string()))?;
        if found.version != VERSION {
            return Err(refused("another version of corelane wrote it"));
        }
        if found.source.size != source.size || found.source.fingerprint != source.fingerprint {
            return Err(refused("the input has changed since"));
        }
        if found.source != *source {
            return Err(refused("the import was started with other options"));
        }
        if found.offset > source.size {
            return Err(refused("it points behind the end of the input"));
        }
        Ok(Some(found))
    }

    /// Replaces the checkpoint at `path`, durably.
    pub(crate) fn store(&self, path: &Path) -> Result<(), CliError> {
        let written = || -> io::Result<()> {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".new");
            let mut file = fs::File::create(&aside)?;
            file.write_all(serde_json::to_string(self)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, path)
        };
        written().map_err(|error| CliError::file("cannot write the checkpoint", path, &error))
    }

    /// Removes the checkpoint of a finished import.
    pub(crate) fn remove(path: &Path) -> Result<(), CliError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CliError::file("cannot remove the checkpoint", path, &error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Format;

    fn source(input: &Path) -> Source {
        let (size, fingerprint) = Source::identify(input).unwrap();
        let layout = Layout::new(Format::Tsv);
        Source {
            size,
            fingerprint,
            layout,
            header: false,
            connect: "127.0.0.1:7400".into(),
            prefix: String::new(),
        }
    }

    #[test]
    fn a_checkpoint_serves_only_its_own_import() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.tsv");
        fs::write(&input, "a\t1\nb\t2\n").unwrap();
        let path = Checkpoint::path_beside(&input);
        assert_eq!(path, dir.path().join("in.tsv.corelane-import"));
        let mine = source(&input);
        assert_eq!(Checkpoint::load(&path, &mine).unwrap(), None);

        let mut checkpoint = Checkpoint::new(mine.clone(), 4, 2);
        checkpoint.records = 1;
        checkpoint.store(&path).unwrap();
        assert_eq!(Checkpoint::load(&path, &mine).unwrap(), Some(checkpoint));

        let refused = |source: &Source| Checkpoint::load(&path, source).unwrap_err().cause.unwrap();
        assert_eq!(
            refused(&Source {
                header: true,
                ..mine.clone()
            }),
            "the import was started with other options"
        );
        fs::write(&input, "a\t1\nb\t3\n").unwrap();
        assert_eq!(refused(&source(&input)), "the input has changed since");

        for damaged in ["", "{}", "null", "{\"version\":1"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(
                Checkpoint::load(&path, &mine).unwrap_err().code,
                code::CHECKPOINT,
                "{damaged}"
            );
        }
        Checkpoint::remove(&path).unwrap();
        Checkpoint::remove(&path).unwrap();
        assert_eq!(Checkpoint::load(&path, &mine).unwrap(), None);
    }
}
