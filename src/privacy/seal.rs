//! Sealing: text that only the holder of a private key can read, which no server of ours ever has.
//!
//! Owns: the texts of both keys, the sealed form, sealing and opening. Does not own: what is sealed and when
//! (`quarantined`), the file of a private key (`app`).
//!
//! The scheme is HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20Poly1305. Its info is
//! `esker/quarantine/1`; the associated data is the row's event id, a line feed, and the row's reason, so that a payload
//! opens only in the row that it was sealed for. Each payload has an encapsulated key of its own.
//!
//! | text | form |
//! |---|---|
//! | public key | `esker-seal-1:` and the 32 bytes in base64url without padding |
//! | private key | `esker-open-1:` and the 32 bytes likewise |
//! | key id | the first 8 bytes of the SHA-256 of the public key, 16 hex digits |
//! | sealed payload | base64 (with padding, as SQL reads it) of the encapsulated key (32 bytes) and the ciphertext |

use std::convert::Infallible;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable, setup_receiver};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

const PUBLIC_PREFIX: &str = "esker-seal-1:";
const PRIVATE_PREFIX: &str = "esker-open-1:";
const INFO: &[u8] = b"esker/quarantine/1";

/// Bytes of either key, of an encapsulated key and of a seed.
const KEY_BYTES: usize = 32;
/// Characters of a key in base64url without padding.
const KEY_CHARACTERS: usize = 43;

/// Why something could not be sealed or opened. Never holds a part of a key or a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text is no public key.
    #[error(
        "not a public key: it must be `{PUBLIC_PREFIX}` and 43 characters of base64url, as `esker quarantine keygen` prints it"
    )]
    PublicKey,
    /// The text is a private key where a public one belongs.
    #[error(
        "this is the private key, which must never be on the server: put the public key here (`{PUBLIC_PREFIX}...`), and \
         make a new pair, since this one is no longer secret"
    )]
    PrivateInPlaceOfPublic,
    /// The text is no private key.
    #[error("not a private key: it must be `{PRIVATE_PREFIX}` and 43 characters of base64url")]
    PrivateKey,
    /// The text is no sealed payload.
    #[error("the sealed text is damaged: it is not base64 of a sealed payload")]
    Malformed,
    /// The payload was sealed for another key, for another row, or was changed.
    #[error(
        "the payload does not open: it was sealed to another key, belongs to another row, or was changed"
    )]
    Closed,
    /// The payload could not be sealed.
    #[error("the payload could not be sealed")]
    Failed,
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,
}

/// Fills a seed with bytes that nobody can predict, and never the same twice.
pub type Randomness = fn(&mut [u8; KEY_BYTES]) -> Result<(), SealError>;

/// Randomness from the system.
///
/// # Errors
/// [`SealError::Random`] where the system has none.
pub fn system_randomness(seed: &mut [u8; KEY_BYTES]) -> Result<(), SealError> {
    getrandom::fill(seed).map_err(|_| SealError::Random)
}

/// Whom payloads are sealed to: the public half of a key pair.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    key: PublicKey,
    id: String,
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipient").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Display for Recipient {
    /// The public key's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.key.to_bytes()))
    }
}

impl Recipient {
    /// Reads a public key's text.
    ///
    /// # Errors
    /// Where it is something else; a private key is told apart, as it must not be there.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        if text.starts_with(PRIVATE_PREFIX) {
            return Err(SealError::PrivateInPlaceOfPublic);
        }
        let bytes = key_bytes(text, PUBLIC_PREFIX).ok_or(SealError::PublicKey)?;
        let key = PublicKey::from_bytes(bytes.as_slice()).map_err(|_| SealError::PublicKey)?;
        let recipient = Self::new(key);
        // To a key of low order nothing can be sealed; better told at the start than with the first broken event.
        recipient.encapsulate(Zeroizing::new([1; KEY_BYTES])).map_err(|_| SealError::PublicKey)?;
        Ok(recipient)
    }

    fn new(key: PublicKey) -> Self {
        let digest = Sha256::digest(key.to_bytes());
        let id = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { key, id }
    }

    /// The key's short name. Not secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a payload for one row.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn seal(
        &self,
        payload: &[u8],
        event_id: &str,
        reason: &str,
        randomness: Randomness,
    ) -> Result<String, SealError> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        randomness(&mut seed)?;
        let (encapped, mut context) = self.encapsulate(seed).map_err(|_| SealError::Failed)?;
        let sealed =
            context.seal(payload, &associated_data(event_id, reason)).map_err(|_| SealError::Failed)?;
        let mut bytes = encapped.to_bytes().to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(STANDARD.encode(bytes))
    }

    fn encapsulate(
        &self,
        seed: Zeroizing<[u8; KEY_BYTES]>,
    ) -> Result<(EncappedKey, hpke::aead::AeadCtxS<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>), HpkeError>
    {
        let mut stream = SeedStream { seed, block: 0 };
        hpke::setup_sender_with_rng(&OpModeS::Base, &self.key, INFO, &mut stream)
    }
}

/// The private half of a key pair. Wiped from memory on drop; its `Debug` shows the key's id only.
pub struct OpeningKey {
    key: PrivateKey,
    recipient: Recipient,
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningKey").field("id", &self.recipient.id).finish_non_exhaustive()
    }
}

impl OpeningKey {
    /// Makes a new pair from the system's randomness.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn generate() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        system_randomness(&mut bytes)?;
        Self::from_bytes(&bytes)
    }

    /// Reads a private key's text; white space around it is ignored.
    ///
    /// # Errors
    /// [`SealError::PrivateKey`] where it is something else.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let bytes = key_bytes(text.trim(), PRIVATE_PREFIX).ok_or(SealError::PrivateKey)?;
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, SealError> {
        let key = PrivateKey::from_bytes(bytes).map_err(|_| SealError::PrivateKey)?;
        let recipient = Recipient::new(X25519HkdfSha256::sk_to_pk(&key));
        Ok(Self { key, recipient })
    }

    /// The private key's text.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        self.key.write_exact(bytes.as_mut_slice());
        let mut text = Zeroizing::new(String::with_capacity(PRIVATE_PREFIX.len() + KEY_CHARACTERS + 1));
        text.push_str(PRIVATE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        text
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Opens what was sealed for a row.
    ///
    /// # Errors
    /// [`SealError::Closed`] where key, row and payload do not belong together.
    pub fn open(&self, sealed: &str, event_id: &str, reason: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let bytes = STANDARD.decode(sealed).map_err(|_| SealError::Malformed)?;
        let (encapped, ciphertext) = bytes.split_at_checked(KEY_BYTES).ok_or(SealError::Malformed)?;
        let encapped = EncappedKey::from_bytes(encapped).map_err(|_| SealError::Malformed)?;
        let mut context = setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.key,
            &encapped,
            INFO,
        )
        .map_err(|_| SealError::Closed)?;
        let opened = context.open(ciphertext, &associated_data(event_id, reason));
        opened.map(Zeroizing::new).map_err(|_| SealError::Closed)
    }
}

/// What binds a payload to its row. Neither part can hold a line feed.
fn associated_data(event_id: &str, reason: &str) -> Vec<u8> {
    [event_id.as_bytes(), b"\n", reason.as_bytes()].concat()
}

fn key_bytes(text: &str, prefix: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let encoded = text.strip_prefix(prefix).filter(|encoded| encoded.len() == KEY_CHARACTERS)?;
    // The decoder wants room for what it estimates: 33 bytes.
    let mut decoded = Zeroizing::new([0; KEY_BYTES + 4]);
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, decoded.as_mut_slice()).ok()?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    bytes.copy_from_slice(decoded.get(..length).filter(|bytes| bytes.len() == KEY_BYTES)?);
    Some(bytes)
}

/// A seed, stretched: block `n` is the SHA-256 of the seed and `n`. HPKE asks for one block; should it ever ask for more, none
/// repeats. A generator that fails halfway has no place in HPKE's interface, so the seed is drawn before.
struct SeedStream {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    block: u64,
}

impl TryRng for SeedStream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(KEY_BYTES) {
            let mut hash = Sha256::new();
            hash.update(self.seed.as_slice());
            hash.update(self.block.to_le_bytes());
            self.block = self.block.wrapping_add(1);
            let block = Zeroizing::new(<[u8; KEY_BYTES]>::from(hash.finalize()));
            for (slot, byte) in chunk.iter_mut().zip(block.iter()) {
                *slot = *byte;
            }
        }
        Ok(())
    }
}

impl TryCryptoRng for SeedStream {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both halves of the pair of the test vectors, which `tests/e2e/test_quarantine_seal.py` opens with another
    /// implementation.
    const VECTORS: &str = include_str!("../../tests/e2e/quarantine_seal.json");

    fn vectors() -> serde_json::Value {
        serde_json::from_str(VECTORS).unwrap()
    }

    fn pair(first: u8) -> OpeningKey {
        OpeningKey::from_bytes(&std::array::from_fn(|place| first.wrapping_add(place as u8))).unwrap()
    }

    fn fixed(seed: &mut [u8; KEY_BYTES]) -> Result<(), SealError> {
        seed.fill(7);
        Ok(())
    }

    #[test]
    fn what_is_sealed_to_a_key_opens_with_it_alone_and_in_its_row_alone() {
        let (ours, others) = (pair(1), pair(2));
        let sealed = ours.recipient().seal(b"payload", "id-1", "type_mismatch", system_randomness).unwrap();
        assert_eq!(ours.open(&sealed, "id-1", "type_mismatch").unwrap().as_slice(), b"payload");
        assert_eq!(others.open(&sealed, "id-1", "type_mismatch"), Err(SealError::Closed));
        assert_eq!(ours.open(&sealed, "id-2", "type_mismatch"), Err(SealError::Closed));
        assert_eq!(ours.open(&sealed, "id-1", "missing_required"), Err(SealError::Closed));
    }

    #[test]
    fn a_changed_byte_anywhere_keeps_it_closed() {
        let ours = pair(1);
        let sealed = ours.recipient().seal(b"some payload", "id", "reason", system_randomness).unwrap();
        let bytes = STANDARD.decode(&sealed).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            // The top bit of an X25519 point is ignored, so its lowest is flipped here: every change must be seen.
            assert!(ours.open(&STANDARD.encode(&changed), "id", "reason").is_err(), "byte {place}");
        }
        assert_eq!(ours.open("", "id", "reason"), Err(SealError::Malformed));
        assert_eq!(ours.open("###", "id", "reason"), Err(SealError::Malformed));
        assert!(ours.open(&STANDARD.encode(&bytes[..40]), "id", "reason").is_err());
    }

    #[test]
    fn sealed_text_holds_nothing_of_the_payload_and_never_repeats() {
        let ours = pair(1);
        let payload = b"MARK-bob@example.org-MARK".repeat(4);
        let seal = || ours.recipient().seal(&payload, "id", "reason", system_randomness).unwrap();
        let (first, second) = (seal(), seal());
        assert_ne!(first, second, "equal payloads must not look equal");
        let bytes = STANDARD.decode(&first).unwrap();
        assert!(!bytes.windows(4).any(|window| window == b"MARK"));
        assert_eq!(bytes.len(), KEY_BYTES + payload.len() + 16);
    }

    #[test]
    fn key_texts_read_back_and_others_are_refused_without_being_repeated() {
        let ours = OpeningKey::generate().unwrap();
        let private = ours.to_text();
        assert_eq!(OpeningKey::parse(&format!("{}\n", *private)).unwrap().recipient(), ours.recipient());
        let public = ours.recipient().to_string();
        assert_eq!(Recipient::parse(&public).unwrap(), *ours.recipient());
        assert_eq!(Recipient::parse(&private).unwrap_err(), SealError::PrivateInPlaceOfPublic);
        assert_eq!(OpeningKey::parse(&public).unwrap_err(), SealError::PrivateKey);
        let zero = format!("{PUBLIC_PREFIX}{}", "A".repeat(KEY_CHARACTERS));
        for text in ["", "esker-seal-1:", &public[..40], &format!("{public}A"), &zero] {
            assert_eq!(Recipient::parse(text), Err(SealError::PublicKey), "{text}");
        }
        for shown in [format!("{ours:?}"), SealError::PrivateInPlaceOfPublic.to_string()] {
            assert!(!shown.contains(&private[PRIVATE_PREFIX.len()..]));
        }
    }

    #[test]
    fn the_test_vectors_open_and_are_what_sealing_makes() {
        let vectors = vectors();
        let text = |key: &str| vectors[key].as_str().unwrap();
        let ours = OpeningKey::parse(text("private_key")).unwrap();
        assert_eq!(ours.recipient().to_string(), text("public_key"));
        assert_eq!(ours.recipient().id(), text("key_id"));
        let opened = ours.open(text("sealed"), text("event_id"), text("reason")).unwrap();
        assert_eq!(STANDARD.encode(opened.as_slice()), text("payload"));
        let again = ours.recipient().seal(&opened, text("event_id"), text("reason"), fixed).unwrap();
        assert_eq!(again, text("sealed"));
    }

    #[test]
    fn without_randomness_nothing_is_sealed() {
        let sealed = pair(1).recipient().seal(b"payload", "id", "reason", |_| Err(SealError::Random));
        assert_eq!(sealed, Err(SealError::Random));
    }
}
