//! When a certificate ends, read from its DER.
//!
//! Owns: finding the one field. Does not own: any judgement; a certificate that is not understood has no end here.
//!
//! ```text
//! Certificate: SEQUENCE { TBSCertificate: SEQUENCE { [0] version?, serial, algorithm, issuer,
//!     validity: SEQUENCE { notBefore, notAfter }, .. }, .. }
//! ```

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity.
pub(super) fn not_after(certificate: &[u8]) -> Option<jiff::Timestamp> {
    let (outer, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, outer)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (validity, _) = expect(SEQUENCE, fields)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    timestamp(tag, std::str::from_utf8(time).ok()?)
}

fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|found| found.0 == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// RFC 5280: `YYMMDDHHMMSSZ` up to 2049, else `YYYYMMDDHHMMSSZ`.
fn timestamp(tag: u8, text: &str) -> Option<jiff::Timestamp> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let digits = match (tag, digits.len()) {
        (UTC_TIME, 12) => format!("{}{digits}", if digits < "50" { "20" } else { "19" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let (date, time) = digits.split_at_checked(8)?;
    format!("{date}T{time}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_is_found_in_both_of_its_forms_and_in_nothing_else() {
        let key = KeyPair::generate().unwrap();
        for (year, expected) in
            [(2031, "2031-02-03T00:00:00Z"), (2049, "2049-02-03T00:00:00Z"), (2050, "2050-02-03T00:00:00Z")]
        {
            let mut params = CertificateParams::new(vec!["x".repeat(200)]).unwrap();
            params.not_after = date_time_ymd(year, 2, 3);
            let certificate = params.self_signed(&key).unwrap();
            let der = certificate.der();
            assert_eq!(not_after(der).unwrap().to_string(), expected);
            for length in 0..der.len() {
                assert_eq!(not_after(&der[..length]), None);
            }
        }
        assert_eq!(timestamp(UTC_TIME, "990102030405Z").unwrap().to_string(), "1999-01-02T03:04:05Z");
        for wrong in ["", "Z", "9901020304Z", "9901020304050Z", "991302030405Z", "+90102030405Z"] {
            assert_eq!(timestamp(UTC_TIME, wrong), None, "{wrong}");
        }
    }
}
