//! The text behind the escapes.
//!
//! Owns: which escapes there are, which characters count as which ASCII character, the way back to the text's own places.
//! Does not own: what is found.
//!
//! All depths are undone at once: any number of backslashes before `u0040` is one escape, as is `%252540`. That is more
//! than a parser of one depth would undo, and that is meant: a value may have been quoted any number of times before it
//! came here. The text as it stands is searched as well.

use super::byte;

/// A text with its escapes undone.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) text: Vec<u8>,
    /// For each byte of `text` the place in the source where what it stands for begins.
    sources: Vec<usize>,
    source_bytes: usize,
    pub(super) changed: bool,
}

impl Decoded {
    pub(super) fn new(source: &[u8]) -> Self {
        let (mut text, mut sources) = (Vec::with_capacity(source.len()), Vec::with_capacity(source.len()));
        let changed = decode(source, &mut |byte, at| {
            text.push(byte);
            sources.push(at);
        });
        Self { text, sources, source_bytes: source.len(), changed }
    }

    /// The place in the source of a place in the text, which may be its end.
    pub(super) fn source(&self, at: usize) -> usize {
        self.sources.get(at).copied().unwrap_or(self.source_bytes)
    }
}

/// Emits each byte of the undone text with the place in the source where it comes from; never more bytes than the source
/// has. Answers whether there was anything to undo.
pub(super) fn decode(source: &[u8], emit: &mut impl FnMut(u8, usize)) -> bool {
    let mut changed = false;
    let mut at = 0;
    while let Some(first) = source.get(at).copied() {
        let undone = match first {
            b'\\' => backslash(source, at),
            b'%' => percent(source, at),
            b'&' => entity(source, at),
            0xc2 | 0xe2 | 0xef => lookalike(source, at),
            _ => None,
        };
        match undone {
            Some(Undone { what, end }) => {
                changed = true;
                push(what, at, emit);
                at = end;
            }
            None => {
                emit(first, at);
                at += 1;
            }
        }
    }
    changed
}

struct Undone {
    what: What,
    /// Where the escape ends.
    end: usize,
}

enum What {
    Byte(u8),
    Code(u32),
}

fn push(what: What, at: usize, emit: &mut impl FnMut(u8, usize)) {
    match what {
        What::Byte(byte) => emit(byte, at),
        What::Code(code) => match folded(code) {
            Folded::Ascii(byte) => emit(byte, at),
            Folded::Nothing => {}
            Folded::Same => {
                let mut buffer = [0; 4];
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                character.encode_utf8(&mut buffer).bytes().for_each(|byte| emit(byte, at));
            }
        },
    }
}

/// Backslashes and what they escape in JSON, Python and JavaScript.
fn backslash(source: &[u8], at: usize) -> Option<Undone> {
    let code_at = super::run_end(source, at, |byte| byte == b'\\');
    let escaped = byte(source, code_at);
    let one = |byte| Some(Undone { what: What::Byte(byte), end: code_at + 1 });
    match escaped {
        b'u' | b'U' => match hex(source, code_at + 1, 4) {
            Some(code) => Some(Undone { what: What::Code(code), end: code_at + 5 }),
            None => one(escaped),
        },
        b'x' => match hex(source, code_at + 1, 2) {
            Some(code) => Some(Undone { what: What::Code(code), end: code_at + 3 }),
            None => one(escaped),
        },
        b'n' | b'r' | b't' | b'b' | b'f' => one(b'\n'),
        b'"' | b'\'' | b'/' => one(escaped),
        _ if code_at > at + 1 => Some(Undone { what: What::Byte(b'\\'), end: code_at }),
        _ => None,
    }
}

/// `%40`, and `%2540`, which is a `%40` that was escaped again.
fn percent(source: &[u8], at: usize) -> Option<Undone> {
    let mut code_at = at + 1;
    while byte(source, code_at) == b'2'
        && byte(source, code_at + 1) == b'5'
        && hex(source, code_at + 2, 2).is_some()
    {
        code_at += 2;
    }
    let code = hex(source, code_at, 2)?;
    Some(Undone { what: What::Byte(u8::try_from(code).ok()?), end: code_at + 2 })
}

/// `&#64;`, `&#x40;`, `&amp;`, `&quot;`, `&commat;`.
fn entity(source: &[u8], at: usize) -> Option<Undone> {
    const NAMED: [(&[u8], u8); 4] =
        [(b"&amp;", b'&'), (b"&quot;", b'"'), (b"&commat;", b'@'), (b"&plus;", b'+')];
    let rest = source.get(at..)?;
    if let Some((name, byte)) = NAMED.iter().find(|(name, _)| rest.starts_with(name)) {
        return Some(Undone { what: What::Byte(*byte), end: at + name.len() });
    }
    let digits = rest.strip_prefix(b"&#")?;
    let (digits, radix, skipped) = match digits.first()? {
        b'x' | b'X' => (digits.get(1..)?, 16, 3),
        _ => (digits, 10, 2),
    };
    let length = digits.iter().take(7).position(|byte| *byte == b';')?;
    let code = u32::from_str_radix(std::str::from_utf8(digits.get(..length)?).ok()?, radix).ok()?;
    // Three bytes of UTF-8 at most, so that what is undone is never longer than `&#1;`.
    let code = if code > 0xffff { 0xfffd } else { code };
    Some(Undone { what: What::Code(code), end: at + skipped + length + 1 })
}

/// A character that looks like an ASCII character, or like nothing.
fn lookalike(source: &[u8], at: usize) -> Option<Undone> {
    let bits = |offset| u32::from(byte(source, at + offset) & 0x3f);
    let (code, length) = match byte(source, at) {
        0xc2 => (0x80 | bits(1), 2),
        first => (u32::from(first & 0xf) << 12 | bits(1) << 6 | bits(2), 3),
    };
    let what = match folded(code) {
        Folded::Same => return None,
        Folded::Ascii(byte) => What::Byte(byte),
        Folded::Nothing => What::Code(code),
    };
    Some(Undone { what, end: at + length })
}

enum Folded {
    Same,
    Ascii(u8),
    Nothing,
}

fn folded(code: u32) -> Folded {
    let ascii = |code: u32| u8::try_from(code).map_or(Folded::Same, Folded::Ascii);
    match code {
        0..0x80 => ascii(code),
        // No-break and typographic spaces.
        0xa0 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f => Folded::Ascii(b' '),
        // Hyphens, dashes and the minus sign.
        0x2010..=0x2015 | 0x2212 => Folded::Ascii(b'-'),
        // Typographic quotes, primes, the ellipsis.
        0x2018..=0x201b | 0x2032 | 0x2039 | 0x203a => Folded::Ascii(b'\''),
        0xab | 0xbb | 0x201c..=0x201f | 0x2033 => Folded::Ascii(b'"'),
        0x2026 => Folded::Ascii(b'.'),
        // Soft hyphen, zero-width characters, direction marks, byte order mark.
        0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x2064 | 0xfeff => Folded::Nothing,
        // Full-width forms.
        0xff01..=0xff5e => ascii(code - 0xff01 + 0x21),
        _ => Folded::Same,
    }
}

fn hex(source: &[u8], at: usize, length: usize) -> Option<u32> {
    let digits = source.get(at..at + length)?;
    digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
}
