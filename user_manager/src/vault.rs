//! What lies in the database and must not be read there: signing keys, and the secret of links.

use anyhow::Context;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::service::StartError;
use secrecy::{ExposeSecret, SecretString};

/// What stands before a value that is encrypted; base64 has no colon.
const SEALED: &str = "aes-256-gcm:";

/// Encrypts and decrypts, if a key is configured. Of several keys the first encrypts, all decrypt.
pub(crate) struct Vault(Vec<RandomizedNonceKey>);

/// A value as it was found in the database.
pub(crate) struct Opened {
    pub(crate) value: Vec<u8>,
    /// Whether it lies there as [`Vault::seal`] would put it today.
    pub(crate) is_current: bool,
}

impl Vault {
    /// `keys`: each 32 bytes in base64, separated by commas.
    pub(crate) fn new(keys: Option<&SecretString>) -> Result<Vault, StartError> {
        let keys = keys.map_or(Some(Vec::new()), |keys| keys.expose_secret().split(',').map(key).collect());
        keys.map(Vault).ok_or_else(|| {
            StartError::new("KEY_ENCRYPTION_KEY must be 32 bytes in base64, as of: openssl rand -base64 32")
        })
    }

    /// The text to store. `name` belongs to it: under another name it does not open.
    pub(crate) fn seal(&self, name: &str, value: &[u8]) -> anyhow::Result<String> {
        let Some(key) = self.0.first() else { return Ok(STANDARD.encode(value)) };
        let mut sealed = value.to_vec();
        let nonce =
            key.seal_in_place_append_tag(Aad::from(name), &mut sealed).context("encryption failed")?;
        Ok(format!("{SEALED}{}", STANDARD.encode([&nonce.as_ref()[..], &sealed].concat())))
    }

    /// The value of a stored text. What cannot be opened stops the start: the right key is missing.
    pub(crate) fn open(&self, name: &str, stored: &str) -> anyhow::Result<Opened> {
        let Some(sealed) = stored.strip_prefix(SEALED) else {
            return Ok(Opened { value: STANDARD.decode(stored)?, is_current: self.0.is_empty() });
        };
        if self.0.is_empty() {
            let what = "KEY_ENCRYPTION_KEY is needed: the keys in the database are encrypted";
            return Err(StartError::new(what).into());
        }
        let sealed = STANDARD.decode(sealed)?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).context("an encrypted value is cut off")?;
        let open = |key: &RandomizedNonceKey| {
            let mut value = sealed.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let length = key.open_in_place(nonce, Aad::from(name), &mut value).ok()?.len();
            value.truncate(length);
            Some(value)
        };
        let opened = self.0.iter().enumerate().find_map(|(place, key)| Some((place, open(key)?)));
        let (place, value) = opened
            .ok_or_else(|| StartError::new("KEY_ENCRYPTION_KEY does not open the keys in the database"))?;
        Ok(Opened { value, is_current: place == 0 })
    }
}

fn key(text: &str) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, &STANDARD.decode(text.trim()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(keys: &[u8]) -> Vault {
        let keys: Vec<String> = keys.iter().map(|byte| STANDARD.encode([*byte; 32])).collect();
        Vault::new((!keys.is_empty()).then(|| keys.join(", ").into()).as_ref()).unwrap()
    }

    #[test]
    fn a_value_opens_with_its_key_and_under_its_name_only() {
        let sealed = vault(&[1]).seal("k1", b"secret").unwrap();
        assert!(!sealed.contains(&STANDARD.encode(b"secret")));
        let opened = vault(&[1]).open("k1", &sealed).unwrap();
        assert_eq!((opened.value.as_slice(), opened.is_current), (&b"secret"[..], true));
        for (vault, name) in [(vault(&[2]), "k1"), (vault(&[]), "k1"), (vault(&[1]), "k2")] {
            let refused = vault.open(name, &sealed).err().unwrap();
            assert!(refused.is::<StartError>(), "{refused:#}");
        }
        assert!(vault(&[1]).open("k1", &sealed[..20]).is_err());
    }

    #[test]
    fn what_was_plain_or_under_an_old_key_is_to_be_encrypted_anew() {
        let plain = vault(&[]).seal("k1", b"secret").unwrap();
        assert!(vault(&[]).open("k1", &plain).unwrap().is_current);
        let old = vault(&[1]).seal("k1", b"secret").unwrap();
        for stored in [plain, old] {
            let opened = vault(&[2, 1]).open("k1", &stored).unwrap();
            assert_eq!((opened.value.as_slice(), opened.is_current), (&b"secret"[..], false));
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for bad in ["", "short", "AAAA", ","] {
            assert!(Vault::new(Some(&bad.to_owned().into())).is_err(), "{bad:?}");
        }
    }
}
