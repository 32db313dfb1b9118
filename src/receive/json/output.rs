//! Protobuf as it is written, field by field.
//!
//! Owns: the encoding, and the lengths of messages whose size is known only at their end. Does not own: what is written.

/// The bytes written so far.
#[derive(Debug)]
pub(super) struct Output(Vec<u8>);

impl Output {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn varint(&mut self, number: u32, value: u64) {
        self.tag(number, 0);
        self.raw_varint(value);
    }

    pub(super) fn fixed64(&mut self, number: u32, value: u64) {
        self.tag(number, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn fixed32(&mut self, number: u32, value: u32) {
        self.tag(number, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, number: u32, value: &[u8]) {
        self.tag(number, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Starts a length-delimited field. Its payload is appended next, and [`Self::end`] is given what this returns.
    pub(super) fn begin(&mut self, number: u32) -> usize {
        self.tag(number, 2);
        self.0.push(0);
        self.0.len()
    }

    /// Writes the length of the field whose payload started at `start`. One byte was kept free for it, which is enough for
    /// most, so that few payloads are moved.
    pub(super) fn end(&mut self, start: usize) {
        let (length, used) = encode_varint((self.0.len() - start) as u64);
        drop(self.0.splice(start - 1..start, length.into_iter().take(used)));
    }

    /// Where the payload that is being written is appended.
    pub(super) fn payload(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        self.raw_varint(u64::from(number << 3 | wire_type));
    }

    fn raw_varint(&mut self, value: u64) {
        let (bytes, used) = encode_varint(value);
        self.0.extend(bytes.into_iter().take(used));
    }
}

/// A base-128 integer, and how many of the ten bytes it takes.
fn encode_varint(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut used = 0;
    for byte in &mut bytes {
        used += 1;
        *byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            break;
        }
        *byte |= 0x80;
    }
    (bytes, used)
}
