//! The signed link by which a mail's reader ends an interest without a login.

use common::signed;
use common::types::{Account, Icao, Invalid};

/// Signs and verifies unsubscribe tokens: `account.airport.signature`.
#[derive(Clone)]
pub(crate) struct Signer(signed::Signer);

impl Signer {
    /// With a secret of [`signed::fresh_secret`].
    pub(crate) fn new(secret: &str) -> anyhow::Result<Signer> {
        Ok(Signer(signed::Signer::new(secret)?))
    }

    pub(crate) fn sign(&self, account: Account, airport: Icao) -> String {
        self.0.sign(&format!("{account}.{airport}"))
    }

    pub(crate) fn verify(&self, token: &str) -> Result<(Account, Icao), Invalid> {
        let text = self.0.verify(token)?;
        let (account, airport) = text.split_once('.').unwrap_or((text, ""));
        Ok((account.parse()?, airport.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_ends_the_interest_it_was_signed_for() {
        let signer = Signer::new(&signed::fresh_secret().unwrap()).unwrap();
        let (account, airport) = (Account::new_random(), "KJFK".parse().unwrap());
        assert_eq!(signer.verify(&signer.sign(account, airport)).unwrap(), (account, airport));
        assert!(signer.verify(&signer.0.sign("KJFK")).is_err());
    }
}
