//! What may hold a secret is remembered by a keyed hash: whoever gets at the record, a message or a report without the key
//! cannot try out passwords against it.

use super::Settings;
use sha2::{Digest, Sha256};
use std::fmt;

/// A random key of the record. It never leaves the machine but inside of an encrypted backup.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; 32]);

impl SealKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// 128 bits of the SHA-256 over key and digest. Both have a fixed length, so that nothing can be appended to either.
    fn seal(&self, digest: &str) -> String {
        let hash = Sha256::new().chain_update(self.0).chain_update(digest).finalize();
        hash.iter().take(16).fold("sealed:".to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// How a reading marks the plain SHA-256 of what may be a secret. It goes no further than to [`Settings::seal`].
pub const DIGEST: &str = "sha256:";
/// Digits of such a hash that records of before kept, bare.
const KEPT: usize = 16;
/// For whoever has no key, and so nothing to compare with.
const HIDDEN: &str = "(hidden)";

impl Settings {
    /// Puts keyed hashes in place of bare ones; without a key, nothing that tells one secret from another.
    pub fn seal(&mut self, key: Option<&SealKey>) {
        let sealed = |value: &str| {
            let digest = value.strip_prefix(DIGEST)?;
            Some(key.map_or_else(|| HIDDEN.to_owned(), |key| key.seal(digest)))
        };
        for setting in &mut self.list {
            let Some(value) = sealed(&setting.value) else { continue };
            if key.is_some() {
                let bare = setting.value.chars().take(DIGEST.len() + KEPT).collect();
                self.bare.insert(setting.name.clone(), bare);
            }
            setting.value = value;
        }
        for setting in &mut self.list {
            if let Some(boot) = setting.boot.as_deref().and_then(sealed) {
                setting.boot = Some(boot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::postgres::fixtures::setting;
    use crate::observation::Accepted;
    use jiff::Timestamp;

    const SECRET: &str = "sha256:f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7";
    const OTHER: &str = "sha256:0000000000000000f88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7";

    fn read(value: &str, key: Option<u8>) -> Settings {
        let mut one = setting("vectorize.openai_key", value, None);
        one.boot = Some(value.to_owned());
        let list = vec![one, setting("work_mem", "4096", Some("kB"))];
        let mut settings = Settings { list, ..Settings::default() };
        settings.seal(key.map(|byte| SealKey::new([byte; 32])).as_ref());
        settings
    }

    fn sealed(value: &str, key: Option<u8>) -> String {
        read(value, key).value("vectorize.openai_key").unwrap().to_owned()
    }

    #[test]
    fn the_same_secret_looks_the_same_with_one_key_and_different_with_another() {
        assert_eq!(sealed(SECRET, Some(1)), sealed(SECRET, Some(1)));
        assert_ne!(sealed(SECRET, Some(1)), sealed(SECRET, Some(2)));
        assert_ne!(sealed(SECRET, Some(1)), sealed(OTHER, Some(1)));
        assert_eq!(sealed(SECRET, Some(1)).len(), "sealed:".len() + 32);
        assert_eq!((sealed(SECRET, None), sealed(OTHER, None)), ("(hidden)".to_owned(), "(hidden)".to_owned()));
        let settings = read(SECRET, Some(1));
        assert_eq!(settings.value("work_mem"), Some("4096"));
        assert_eq!(settings.list[0].boot.as_deref(), settings.value("vectorize.openai_key"));
        let written = serde_json::to_string(&settings).unwrap();
        assert!(!written.contains("f52fbd32"), "the bare hash is not written down: {written}");
        assert!(!format!("{:?}", SealKey::new([7; 32])).contains('7'));
    }

    /// As an older version left it: 64 bits of the bare hash.
    fn of_before(digest: &str) -> Accepted {
        let at: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let mut accepted = Accepted::of(&read(SECRET, Some(1)), true, at, "ann");
        accepted.settings.get_mut("vectorize.openai_key").unwrap().value = digest.to_owned();
        accepted
    }

    #[test]
    fn what_was_accepted_before_is_sealed_and_a_change_since_then_is_still_told() {
        let settings = read(SECRET, Some(1));
        let mut accepted = of_before("sha256:f52fbd32b2b3b86f");
        assert!(accepted.reseal(&settings, true));
        assert_eq!(accepted.drift(&settings), []);
        assert_eq!(accepted.settings["vectorize.openai_key"].value, sealed(SECRET, Some(1)));
        assert!(!accepted.reseal(&settings, true), "once is enough");
        let mut unseen = of_before("sha256:f52fbd32b2b3b86f");
        assert!(!unseen.reseal(&Settings::default(), false), "without our rights nothing is known of it");
        assert!(unseen.reseal(&settings, true));
        assert_eq!(unseen.drift(&settings), []);

        let mut changed = of_before("sha256:ffffffffffffffff");
        assert!(changed.reseal(&settings, true));
        assert_eq!(changed.drift(&settings).len(), 1);
        let kept = serde_json::to_string(&changed).unwrap();
        assert!(!kept.contains("ffffffff"), "{kept}");
    }
}
