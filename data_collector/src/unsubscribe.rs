//! The signed link by which a mail's reader ends an interest without a login.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::types::{Account, Icao, Invalid};

/// Signs and verifies unsubscribe tokens: `account.airport.signature`, HMAC-SHA-256.
#[derive(Clone)]
pub(crate) struct Signer(hmac::Key);

impl Signer {
    /// With a secret in base64url.
    pub(crate) fn new(secret: &str) -> anyhow::Result<Signer> {
        Ok(Signer(hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(secret)?)))
    }

    /// A fresh secret, 32 random bytes in base64url.
    pub(crate) fn fresh_secret() -> anyhow::Result<String> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
        Ok(URL_SAFE_NO_PAD.encode(secret))
    }

    pub(crate) fn sign(&self, account: Account, airport: Icao) -> String {
        let text = format!("{account}.{airport}");
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, text.as_bytes()));
        format!("{text}.{signature}")
    }

    pub(crate) fn verify(&self, token: &str) -> Result<(Account, Icao), Invalid> {
        let invalid = || Invalid("the link is not one of ours, or incomplete".to_owned());
        let (text, signature) = token.rsplit_once('.').ok_or_else(invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| invalid())?;
        hmac::verify(&self.0, text.as_bytes(), &signature).map_err(|_| invalid())?;
        let (account, airport) = text.split_once('.').ok_or_else(invalid)?;
        Ok((account.parse()?, airport.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_ends_the_interest_it_was_signed_for_and_no_other() {
        let signer = Signer::new(&Signer::fresh_secret().unwrap()).unwrap();
        let (account, airport) = (Account::new_random(), "KJFK".parse().unwrap());
        let token = signer.sign(account, airport);
        assert_eq!(signer.verify(&token).unwrap(), (account, airport));
        assert!(signer.verify(&token.replace("KJFK", "KBOS")).is_err());
        assert!(Signer::new(&Signer::fresh_secret().unwrap()).unwrap().verify(&token).is_err());
        for bad in ["", ".", "a.b.c", &token[..token.len() - 1]] {
            assert!(signer.verify(bad).is_err(), "{bad:?} was taken");
        }
    }
}
