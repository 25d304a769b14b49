//! Signed texts for links in mails: whoever has the link may do what it says, and nothing else.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::types::Invalid;

/// Signs and verifies texts with HMAC-SHA-256: `text.signature`. Each purpose has a key of its own, so that a text signed
/// for one says nothing to another.
#[derive(Clone)]
pub struct Signer(hmac::Key);

impl Signer {
    /// With a secret of [`fresh_secret`].
    pub fn new(secret: &str) -> anyhow::Result<Signer> {
        Ok(Signer(hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(secret)?)))
    }

    /// The text with its signature, fit for a URL if the text is.
    pub fn sign(&self, text: &str) -> String {
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// The text that was signed.
    pub fn verify<'a>(&self, token: &'a str) -> Result<&'a str, Invalid> {
        let invalid = || Invalid("the link is not one of ours, or incomplete".to_owned());
        let (text, signature) = token.rsplit_once('.').ok_or_else(invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| invalid())?;
        hmac::verify(&self.0, text.as_bytes(), &signature).map_err(|_| invalid())?;
        Ok(text)
    }
}

/// A fresh secret, 32 random bytes in base64url.
pub fn fresh_secret() -> anyhow::Result<String> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_ours_only_as_it_was_signed() {
        let signer = Signer::new(&fresh_secret().unwrap()).unwrap();
        let token = signer.sign("a.KJFK");
        assert_eq!(signer.verify(&token).unwrap(), "a.KJFK");
        assert!(signer.verify(&token.replace("KJFK", "KBOS")).is_err());
        assert!(Signer::new(&fresh_secret().unwrap()).unwrap().verify(&token).is_err());
        for bad in ["", ".", "a.b.c", &token[..token.len() - 1]] {
            assert!(signer.verify(bad).is_err(), "{bad:?} was taken");
        }
    }
}
