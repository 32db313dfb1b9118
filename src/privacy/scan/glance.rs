//! One look at each byte of a text, which tells which searches can be spared.
//!
//! Owns: which characters a search needs. Does not own: the searches. A search that is spared must be one that could not
//! have found anything; one that runs in vain only costs time.
//!
//! Two tables are read per byte and nothing branches. The first counts the characters that numbers and addresses need.
//! The second marks the bytes of short patterns: bit n of a byte's first, second and third field says that the byte can
//! be the first, second or third of pattern n, so that three bytes in a row that share a bit may be that pattern.

/// From this length on the counts may overflow, and nothing is spared.
const COUNTED_BYTES_MAX: usize = 1 << 20;

const DIGIT: u64 = 1;
const DOT: u64 = 1 << 20;
const COLON: u64 = 1 << 40;
const COUNT: u64 = (1 << 20) - 1;
/// The upper bits are not counted; they say that a character was there at all.
const AT: u64 = 1 << 60;
const EQUALS: u64 = 1 << 61;
const PLUS: u64 = 1 << 62;
/// Begins an escape, or a character that looks like another.
const ESCAPE: u64 = 1 << 63;

const COUNTS: [u64; 256] = counts();
const PATTERN_BYTES: [u64; 256] = pattern_bytes();

/// Bits of a field of `PATTERN_BYTES`, one for each pattern.
const FIELD: u32 = 21;

/// Three bytes in a row, each one of several. Every beginning in `keys` holds one of the patterns (tested there).
const PATTERNS: [[&[u8]; 3]; FIELD as usize] = [
    // Two colons, whatever follows: the only one that is not for `keys`.
    [b":", b":", b""],
    // eyJ (JSON in base 64)
    [b"e", b"y", b"J"],
    // PRIVATE KEY
    [b"E", b" ", b"K"],
    // bearer, basic
    [b"rR", b"eE", b"rR"],
    [b"sS", b"iI", b"cC"],
    // AKIA, ASIA, ABIA, ACCA
    [b"KSBC", b"IC", b"A"],
    // AIza, pypi-AgE
    [b"A", b"Ig", b"zE"],
    // GOCSPX-, ATATT3, AGE-SECRET-KEY-1
    [b"STY", b"PT-", b"X31"],
    // ya29.
    [b"y", b"a", b"2"],
    // ghp_ and others
    [b"g", b"h", b"pousr"],
    // glpat-, gldt-, glrt-, glptt-
    [b"g", b"l", b"pdr"],
    // github_pat_
    [b"b", b"_", b"p"],
    // xoxb-, xapp- and others
    [b"x", b"oa", b"xp"],
    // hooks.slack.com
    [b"k", b".", b"c"],
    // sk_live_, rk_test_
    [b"k", b"_", b"lt"],
    // sk-, key-
    [b"se", b"ky", b"-"],
    // whsec_, hvs.
    [b"wh", b"hv", b"s"],
    // shpat_, shpss_, npm_
    [b"sn", b"hp", b"pm"],
    // hf_, SG.
    [b"hS", b"fG", b"_."],
    // dapi, dop_v1_
    [b"dp", b"a_", b"pv"],
    // ser.
    [b"e", b"r", b"."],
];

const TWO_COLONS: u64 = 1;
const BEGINNINGS: u64 = ((1 << FIELD) - 1) & !TWO_COLONS;

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, and `byte` is below 256")]
const fn counts() -> [u64; 256] {
    let mut counts = [0; 256];
    let mut byte: usize = 0;
    while byte < 256 {
        counts[byte] = match byte as u8 {
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
        byte += 1;
    }
    counts
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of bounds is an error"
)]
const fn pattern_bytes() -> [u64; 256] {
    let mut marks = [0; 256];
    let mut pattern = 0;
    while pattern < PATTERNS.len() {
        let mut place = 0;
        while place < 3 {
            let bit = 1_u64 << (pattern + place * FIELD as usize);
            let bytes = PATTERNS[pattern][place];
            let mut at = 0;
            while at < bytes.len() {
                marks[bytes[at] as usize] |= bit;
                at += 1;
            }
            // No byte stands for any byte.
            let mut any = 0;
            while bytes.is_empty() && any < 256 {
                marks[any] |= bit;
                any += 1;
            }
            place += 1;
        }
        pattern += 1;
    }
    marks
}

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance {
    seen: u64,
    digits: u64,
    dots: u64,
    colons: u64,
    patterns: u64,
    bytes: usize,
}

impl Glance {
    #[inline]
    pub(super) fn at(text: &[u8]) -> Self {
        let (mut counted, mut seen, mut patterns) = (0_u64, 0, 0);
        let (mut second_last, mut last) = (0_u64, 0_u64);
        for byte in text {
            let count = COUNTS.get(usize::from(*byte)).copied().unwrap_or(0);
            counted = counted.wrapping_add(count);
            seen |= count;
            let marks = PATTERN_BYTES.get(usize::from(*byte)).copied().unwrap_or(0);
            patterns |= second_last & (last >> FIELD) & (marks >> (2 * FIELD));
            (second_last, last) = (last, marks);
        }
        // A pattern whose third byte may be any may also end the text.
        patterns |= second_last & (last >> FIELD);
        let is_counted = text.len() < COUNTED_BYTES_MAX;
        let count = |unit: u64| if is_counted { (counted / unit) & COUNT } else { COUNT };
        Self {
            seen,
            digits: count(DIGIT),
            dots: count(DOT),
            colons: count(COLON),
            patterns,
            bytes: text.len(),
        }
    }

    /// As if everything had been seen.
    #[cfg(test)]
    pub(super) fn of_everything() -> Self {
        Self {
            seen: u64::MAX,
            digits: COUNT,
            dots: COUNT,
            colons: COUNT,
            patterns: u64::MAX,
            bytes: usize::MAX,
        }
    }

    /// True where every search can be spared.
    #[inline]
    pub(super) fn sees_nothing(self) -> bool {
        !(self.has_at()
            || self.may_be_escaped()
            || self.may_hold_card()
            || self.may_hold_iban()
            || self.may_hold_phone()
            || self.may_hold_ipv4()
            || self.may_hold_ipv6()
            || self.may_hold_assignment()
            || self.may_hold_key())
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

    /// Written out it has seven colons, or six and an IPv4 address.
    pub(super) fn may_hold_ipv6(self) -> bool {
        self.patterns & TWO_COLONS != 0 || self.colons >= 6
    }

    pub(super) fn may_hold_assignment(self) -> bool {
        self.seen & EQUALS != 0 || self.colons != 0
    }

    pub(super) fn may_hold_key(self) -> bool {
        self.patterns & BEGINNINGS != 0
    }
}
