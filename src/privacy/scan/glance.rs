//! One look at each byte of a text, which tells which searches can be spared.
//!
//! Owns: which characters a search needs. Does not own: the searches. A search that is spared must be one that could not
//! have found anything; one that runs in vain only costs time.

const DIGIT: u16 = 1;
const DOT: u16 = 1 << 1;
const COLON: u16 = 1 << 2;
const AT: u16 = 1 << 3;
const EQUALS: u16 = 1 << 4;
const PLUS: u16 = 1 << 5;
/// Begins an escape, or a character that looks like another.
const ESCAPE: u16 = 1 << 6;

const CLASSES: [u16; 256] = classes();

const fn classes() -> [u16; 256] {
    let mut classes = [0; 256];
    let mut byte: usize = 0;
    while byte < 256 {
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time, and `byte` is below 256")]
        {
            classes[byte] = match byte as u8 {
                b'0'..=b'9' => DIGIT,
                b'.' => DOT,
                b':' => COLON,
                b'@' => AT,
                b'=' => EQUALS,
                b'+' => PLUS,
                // The last three begin the UTF-8 of no-break space, soft hyphen, general punctuation, full-width forms.
                b'\\' | b'%' | b'&' | 0xc2 | 0xe2 | 0xef => ESCAPE,
                _ => 0,
            };
        }
        byte += 1;
    }
    classes
}

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance {
    seen: u16,
    digits: u32,
    dots: u32,
    colons: u32,
    bytes: usize,
}

impl Glance {
    pub(super) fn at(text: &[u8]) -> Self {
        let (mut seen, mut digits, mut dots, mut colons) = (0, 0, 0, 0);
        for byte in text {
            let class = CLASSES.get(usize::from(*byte)).copied().unwrap_or(0);
            seen |= class;
            digits += u32::from(class & DIGIT);
            dots += u32::from(class & DOT);
            colons += u32::from(class & COLON);
        }
        Self {
            seen,
            digits,
            dots: dots / u32::from(DOT),
            colons: colons / u32::from(COLON),
            bytes: text.len(),
        }
    }

    pub(super) fn has_at(self) -> bool {
        self.seen & AT != 0
    }

    pub(super) fn may_be_escaped(self) -> bool {
        self.seen & ESCAPE != 0
    }

    pub(super) fn may_hold_card(self) -> bool {
        self.digits >= 13
    }

    /// The shortest, Norway's, has 15 characters; every country's has its two check digits and more.
    pub(super) fn may_hold_iban(self) -> bool {
        self.digits >= 4 && self.bytes >= 15
    }

    pub(super) fn may_hold_phone(self) -> bool {
        self.seen & PLUS != 0 && self.digits >= 8
    }

    pub(super) fn may_hold_ipv4(self) -> bool {
        self.dots >= 3 && self.digits >= 4
    }

    pub(super) fn may_hold_ipv6(self) -> bool {
        self.colons >= 2
    }

    pub(super) fn may_hold_assignment(self) -> bool {
        self.seen & (EQUALS | COLON) != 0
    }
}
