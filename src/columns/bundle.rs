//! A frame's payload: one request's rows for each table that it feeds, and what became of its attributes.
//!
//! ```text
//! bundle:  "ESKB" | version u16 | number of sections u16 | section ...
//! section: length of the name u32 | length of the data u32 | name | data       name and data are padded with zeros to 8
//! ```
//!
//! Integers are little-endian. A section is named for its table and holds an Arrow IPC stream; the name `#outcomes`, which no
//! table can have, marks the counts of the attributes. Everything begins at a multiple of eight bytes, so that an aligned
//! payload is read without a copy. The bundle is written in one pass, each stream right into its place.
//!
//! Owns: that format, written, and read back without trust. Does not own: the streams (`batch`), frames and checksums
//! (`wal`), which table a row is for.

use bytes::Bytes;

use super::batch::{ALIGNMENT, Batch, BatchError};
use super::outcomes::OutcomeCounts;

const MAGIC: [u8; 4] = *b"ESKB";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 8;
const SECTION_HEADER_BYTES: usize = 8;
const OUTCOMES: &str = "#outcomes";

/// Most sections of a bundle: far above the tables that a configuration may name.
const SECTIONS_MAX: u16 = 256;
/// Longest name of a section.
const NAME_BYTES_MAX: usize = 512;

/// How the stream begins that was the whole payload before there were bundles.
const BARE_STREAM: [u8; 4] = [0xff; 4];

/// Writes a bundle.
#[derive(Debug)]
pub struct BundleWriter {
    bytes: Vec<u8>,
    sections: u16,
}

impl BundleWriter {
    /// A bundle for these batches, with room for them.
    #[must_use]
    pub fn for_batches<'b>(batches: impl IntoIterator<Item = &'b Batch>) -> Self {
        const SECTION_BYTES_EXPECTED: usize = 64;
        let rows: usize =
            batches.into_iter().map(|batch| batch.ipc_bytes_expected() + SECTION_BYTES_EXPECTED).sum();
        // One more section for the outcomes, which are about twice as long.
        let mut bytes = Vec::with_capacity(HEADER_BYTES + rows + 2 * SECTION_BYTES_EXPECTED);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&0_u16.to_le_bytes());
        Self { bytes, sections: 0 }
    }

    /// Adds rows for a table.
    ///
    /// # Errors
    /// Where Arrow cannot write them, or there are too many sections.
    pub fn rows(&mut self, table: &str, batch: &Batch) -> Result<(), BatchError> {
        self.section(table, |bytes| batch.write_ipc(bytes))
    }

    /// Adds what became of the request's attributes.
    ///
    /// # Errors
    /// As for [`BundleWriter::rows`].
    pub fn outcomes(&mut self, counts: &OutcomeCounts) -> Result<(), BatchError> {
        self.section(OUTCOMES, |mut bytes| {
            bytes.extend_from_slice(&counts.to_bytes());
            Ok(bytes)
        })
    }

    /// The payload.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        let count = self.sections.to_le_bytes();
        if let Some(place) = self.bytes.get_mut(HEADER_BYTES - count.len()..HEADER_BYTES) {
            place.copy_from_slice(&count);
        }
        self.bytes.into()
    }

    fn section(
        &mut self,
        name: &str,
        write: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, BatchError>,
    ) -> Result<(), BatchError> {
        if self.sections >= SECTIONS_MAX || name.len() > NAME_BYTES_MAX {
            return Err(BatchError::Unbundled);
        }
        let header = self.bytes.len();
        self.bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&0_u32.to_le_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        pad(&mut self.bytes);
        let start = self.bytes.len();
        self.bytes = write(std::mem::take(&mut self.bytes))?;
        let length = u32::try_from(self.bytes.len() - start).map_err(|_| BatchError::Unbundled)?;
        if let Some(place) = self.bytes.get_mut(header + 4..header + SECTION_HEADER_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        pad(&mut self.bytes);
        self.sections += 1;
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// A payload that was read back: its parts are told apart, and not yet decoded.
#[derive(Debug)]
pub struct Bundle {
    sections: Vec<Section>,
    outcomes: Option<OutcomeCounts>,
}

/// One table's part of a payload.
pub struct Section {
    /// None where the payload is from before there were bundles: then it is for the primary table.
    table: Option<String>,
    bytes: Bytes,
    /// True where most of the payload is something else.
    is_minor: bool,
}

impl std::fmt::Debug for Section {
    /// Shows where it goes and its size: rows have no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section").field("table", &self.table).field("bytes", &self.bytes.len()).finish()
    }
}

impl Bundle {
    /// Tells a payload's parts apart. Nothing is trusted: lengths, names and padding are checked.
    ///
    /// # Errors
    /// [`BatchError::Malformed`] where it is not a bundle.
    pub fn parse(payload: Bytes) -> Result<Self, BatchError> {
        if payload.starts_with(&BARE_STREAM) {
            let section = Section { table: None, bytes: payload, is_minor: false };
            return Ok(Self { sections: vec![section], outcomes: None });
        }
        Self::parse_sections(&payload).map_err(|problem| BatchError::Malformed { problem })
    }

    fn parse_sections(payload: &Bytes) -> Result<Self, &'static str> {
        let mut reader = Reader { payload, offset: 0 };
        let count = reader.header()?;
        let mut bundle = Self { sections: Vec::with_capacity(usize::from(count.min(8))), outcomes: None };
        for _ in 0..count {
            let (name, bytes) = reader.section()?;
            if name == OUTCOMES {
                let counts = OutcomeCounts::from_bytes(&bytes).ok_or("its outcomes are broken")?;
                if bundle.outcomes.replace(counts).is_some() {
                    return Err("it has its outcomes twice");
                }
                continue;
            }
            if bundle.sections.iter().any(|other| other.table.as_deref() == Some(name)) {
                return Err("two sections are for one table");
            }
            let is_minor = bytes.len() * 2 < payload.len();
            bundle.sections.push(Section { table: Some(name.to_owned()), bytes, is_minor });
        }
        if reader.offset == payload.len() { Ok(bundle) } else { Err("bytes follow the last section") }
    }

    /// The tables' parts, in the order in which they were written.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// What became of the request's attributes, if the payload says it.
    #[must_use]
    pub fn outcomes(&self) -> Option<&OutcomeCounts> {
        self.outcomes.as_ref()
    }
}

impl Section {
    /// The table that it is for; None for the primary, in a payload that names none.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Decodes the rows. The part that makes up most of a payload shares the payload's memory; a smaller one is copied out
    /// of it, or the few rows that wait for one table would keep in memory all that was read for the others.
    ///
    /// # Errors
    /// As for [`Batch::from_ipc`].
    pub fn batch(&self) -> Result<Batch, BatchError> {
        let bytes = if self.is_minor { Bytes::copy_from_slice(&self.bytes) } else { self.bytes.clone() };
        Batch::from_ipc(bytes)
    }
}

/// Takes a payload apart from its start.
struct Reader<'p> {
    payload: &'p Bytes,
    offset: usize,
}

impl<'p> Reader<'p> {
    fn header(&mut self) -> Result<u16, &'static str> {
        const ALIEN: &str = "it does not begin as a bundle";
        if self.take::<4>().ok_or(ALIEN)? != MAGIC {
            return Err(ALIEN);
        }
        match self.take().map(u16::from_le_bytes).ok_or(ALIEN)? {
            VERSION => {}
            _ => return Err("a later version of Esker wrote it"),
        }
        let count = self.take().map(u16::from_le_bytes).ok_or(ALIEN)?;
        if count <= SECTIONS_MAX { Ok(count) } else { Err("it has too many sections") }
    }

    fn section(&mut self) -> Result<(&'p str, Bytes), &'static str> {
        const CUT: &str = "a section is cut off";
        let name = self.take().map(u32::from_le_bytes).ok_or(CUT)? as usize;
        let data = self.take().map(u32::from_le_bytes).ok_or(CUT)? as usize;
        if name > NAME_BYTES_MAX {
            return Err("a section's name is too long");
        }
        let name = self.padded(name).and_then(|range| self.payload.get(range)).ok_or(CUT)?;
        let data = self.padded(data).ok_or(CUT)?;
        let name = std::str::from_utf8(name).map_err(|_| "a section's name is no text")?;
        Ok((name, self.payload.slice(data)))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.payload.get(self.offset..)?.first_chunk::<N>()?;
        self.offset += N;
        Some(*taken)
    }

    /// The range of the next `length` bytes, which lies within the payload; what pads them is skipped.
    fn padded(&mut self, length: usize) -> Option<std::ops::Range<usize>> {
        let end = self.offset.checked_add(length)?;
        let behind = end.checked_next_multiple_of(ALIGNMENT)?;
        if self.payload.get(end..behind)?.iter().any(|byte| *byte != 0) {
            return None;
        }
        let range = self.offset..end;
        self.offset = behind;
        Some(range)
    }
}
