//! Verifying tokens: the signature once, everything that can change later at every use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{AUDIENCE, Claims, Error, Feed, ISSUER, PublicKey};
use crate::clock::Clock;
use crate::types::Account;

/// How far clocks may differ, in seconds.
const LEEWAY: i64 = 30;
/// A feed older than this answers nobody.
const STALE: Duration = Duration::from_secs(60);
/// Tokens in one generation of the cache, which has two.
const GENERATION: usize = 5_000;

/// Verifies tokens by the latest feed. Clones share the feed.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    clock: Clock,
    validation: Validation,
    loaded: ArcSwapOption<Loaded>,
    unknown_key: Notify,
}

struct Loaded {
    keys: Arc<Keys>,
    revoked: HashMap<Account, i64>,
    at: Instant,
}

/// A set of keys and the tokens that were verified with it: when the keys change, nothing verified before counts.
struct Keys {
    published: Vec<PublicKey>,
    by_id: HashMap<String, DecodingKey>,
    verified: Mutex<Verified>,
}

/// What tokens say whose signature was right, by the SHA-256 of the whole token, so that no token lies in memory. Two
/// generations bound it: when the younger one is full, the older one is forgotten.
#[derive(Default)]
struct Verified {
    younger: HashMap<Box<[u8]>, Arc<Claims>>,
    older: HashMap<Box<[u8]>, Arc<Claims>>,
}

impl Verifier {
    /// A verifier without keys: everything is [`Error::Unavailable`] until [`Verifier::load`].
    pub fn new(clock: Clock) -> Verifier {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        // Times are checked at every use, by our clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let loaded = ArcSwapOption::empty();
        Verifier(Arc::new(Inner { clock, validation, loaded, unknown_key: Notify::new() }))
    }

    /// Takes a new feed. Keys that are not Ed25519 are passed over.
    pub fn load(&self, feed: &Feed) {
        let mut published = feed.keys.clone();
        published.sort_by(|a, b| a.kid.cmp(&b.kid));
        let before = self.0.loaded.load();
        let keys = match before.as_ref().filter(|before| before.keys.published == published) {
            Some(before) => before.keys.clone(),
            None => Arc::new(Keys::new(published)),
        };
        let revoked = feed.revoked.iter().map(|r| (r.sub, r.not_before)).collect();
        self.0.loaded.store(Some(Arc::new(Loaded { keys, revoked, at: Instant::now() })));
    }

    /// Whether keys have been loaded at least once.
    pub fn loaded(&self) -> bool {
        self.0.loaded.load().is_some()
    }

    /// Waits until a token names a key that the feed does not have.
    pub(super) async fn met_unknown_key(&self) {
        self.0.unknown_key.notified().await;
    }

    /// What a token says, if it is ours, in time and not revoked. The algorithm is the key's, never the token's.
    pub fn verify(&self, token: &str) -> Result<Arc<Claims>, Error> {
        let loaded = self.fresh()?;
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        if let Some(claims) = loaded.keys.verified(|verified| verified.get(digest.as_ref())) {
            self.judge(&loaded, &claims)?;
            return Ok(claims);
        }
        let claims = Arc::new(self.decode(&loaded.keys, token)?);
        self.judge(&loaded, &claims)?;
        loaded.keys.verified(|verified| verified.insert(digest.as_ref().into(), claims.clone()));
        Ok(claims)
    }

    /// Verifies the value of an `Authorization` header.
    pub fn verify_header(&self, value: Option<&http::HeaderValue>) -> Result<Arc<Claims>, Error> {
        let value = value.and_then(|value| value.to_str().ok()).ok_or(Error::Missing)?;
        match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.verify(token.trim()),
            _ => Err(Error::Missing),
        }
    }

    /// Whether a token that was verified before is good still: in time, its key still published, and not revoked, as
    /// far as is known. For connections that outlast a request; a feed that is too old ends none of them.
    pub fn still_valid(&self, claims: &Claims) -> bool {
        let loaded = self.0.loaded.load();
        loaded.as_ref().is_some_and(|loaded| {
            loaded.keys.by_id.contains_key(&claims.kid) && self.judge(loaded, claims).is_ok()
        })
    }

    fn fresh(&self) -> Result<Arc<Loaded>, Error> {
        self.0.loaded.load_full().filter(|loaded| loaded.at.elapsed() < STALE).ok_or(Error::Unavailable)
    }

    /// What no later event can change: signature, issuer, audience.
    fn decode(&self, keys: &Keys, token: &str) -> Result<Claims, Error> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Invalid("malformed"))?;
        let kid = header.kid.unwrap_or_default();
        let key = keys.by_id.get(&kid).ok_or_else(|| {
            self.0.unknown_key.notify_one();
            Error::Invalid("signed with an unknown key")
        })?;
        let decoded = jsonwebtoken::decode::<Claims>(token, key, &self.0.validation);
        let claims = decoded.map_err(|_| Error::Invalid("not one of ours"))?.claims;
        Ok(Claims { kid, ..claims })
    }

    /// What time and the feed decide.
    fn judge(&self, loaded: &Loaded, claims: &Claims) -> Result<(), Error> {
        let now = self.0.clock.now();
        if claims.exp.saturating_add(LEEWAY) <= now {
            return Err(Error::Invalid("expired"));
        }
        if claims.nbf.saturating_sub(LEEWAY) > now {
            return Err(Error::Invalid("not valid yet"));
        }
        match loaded.revoked.get(&claims.sub) {
            Some(not_before) if claims.iat < *not_before => Err(Error::Invalid("revoked")),
            _ => Ok(()),
        }
    }
}

impl Keys {
    fn new(published: Vec<PublicKey>) -> Keys {
        let key = |key: &PublicKey| {
            let ours = key.kty == "OKP" && key.crv == "Ed25519";
            ours.then(|| DecodingKey::from_ed_components(&key.x).ok()).flatten().map(|k| (key.kid.clone(), k))
        };
        let by_id = published.iter().filter_map(key).collect();
        Keys { published, by_id, verified: Mutex::default() }
    }

    fn verified<T>(&self, f: impl FnOnce(&mut Verified) -> T) -> T {
        f(&mut self.verified.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Verified {
    fn get(&mut self, digest: &[u8]) -> Option<Arc<Claims>> {
        if let Some(claims) = self.younger.get(digest) {
            return Some(claims.clone());
        }
        let (digest, claims) = self.older.remove_entry(digest)?;
        self.insert(digest, claims.clone());
        Some(claims)
    }

    fn insert(&mut self, digest: Box<[u8]>, claims: Arc<Claims>) {
        if self.younger.len() >= GENERATION {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(digest, claims);
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::super::{Revocation, Signer};
    use super::*;
    use crate::clock::Manual;

    const NOW: i64 = 1_000_000;

    fn signer(kid: &str) -> Signer {
        Signer::from_pkcs8(kid, &Signer::generate().unwrap()).unwrap()
    }

    fn feed(signers: &[&Signer], revoked: Vec<Revocation>) -> Feed {
        Feed { keys: signers.iter().map(|signer| signer.public().clone()).collect(), revoked }
    }

    fn verifier(signer: &Signer, revoked: Vec<Revocation>) -> (Verifier, Manual) {
        let (clock, manual) = Clock::manual(NOW);
        let verifier = Verifier::new(clock);
        verifier.load(&feed(&[signer], revoked));
        (verifier, manual)
    }

    fn token(signer: &Signer, account: Account) -> String {
        signer.token(account, &"ada@example.com".parse().unwrap(), NOW).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: Account::new_random(),
            email: "ada@example.com".parse().unwrap(),
            iat: NOW,
            nbf: NOW,
            exp: NOW + 3600,
            kid: "k1".to_owned(),
        }
    }

    /// How many tokens the verifier remembers.
    fn remembered(verifier: &Verifier) -> usize {
        let loaded = verifier.0.loaded.load_full().unwrap();
        loaded.keys.verified(|verified| verified.younger.len() + verified.older.len())
    }

    const UNKNOWN_KEY: Error = Error::Invalid("signed with an unknown key");

    // Each case is asked twice, of a verifier that has not seen the token and of one that remembers it.
    #[tokio::test]
    async fn a_token_is_valid_for_an_hour_and_the_leeway() {
        let signer = signer("k1");
        let token = token(&signer, Account::new_random());
        let expired = Err(Error::Invalid("expired"));
        let early = Err(Error::Invalid("not valid yet"));
        for (now, verdict) in [
            (NOW, Ok(())),
            (NOW + 3629, Ok(())),
            (NOW + 3630, expired.clone()),
            (NOW - 30, Ok(())),
            (NOW - 31, early),
        ] {
            let (verifier, clock) = verifier(&signer, vec![]);
            clock.set(now);
            assert_eq!(verifier.verify(&token).map(|_| ()), verdict, "unseen, at {now}");
            assert_eq!(
                remembered(&verifier),
                usize::from(verdict.is_ok()),
                "a refused token is not remembered"
            );
            clock.set(NOW);
            let claims = verifier.verify(&token).unwrap();
            clock.set(now);
            assert_eq!(verifier.verify(&token).map(|_| ()), verdict, "remembered, at {now}");
            assert_eq!(verifier.still_valid(&claims), verdict.is_ok(), "asked later, at {now}");
        }
    }

    #[tokio::test]
    async fn tokens_of_others_are_refused_and_not_remembered() {
        let ours = signer("k1");
        let (verifier, _) = verifier(&ours, vec![]);
        let account = Account::new_random();
        let not_ours = Error::Invalid("not one of ours");
        let refused = |token: &str| verifier.verify(token).unwrap_err();
        assert_eq!(refused(&token(&signer("k1"), account)), not_ours, "another key under the same id");
        assert_eq!(refused(&token(&signer("k2"), account)), UNKNOWN_KEY, "an unknown id");
        assert_eq!(refused(""), Error::Invalid("malformed"));
        let good = token(&ours, account);
        let mut parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none","kid":"k1"}"#);
        parts[0] = &none;
        assert!(verifier.verify(&parts.join(".")).is_err(), "alg none");
        let hmac = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","kid":"k1"}"#);
        parts[0] = &hmac;
        assert_eq!(refused(&parts.join(".")), not_ours, "another algorithm");
        assert_eq!(remembered(&verifier), 0);

        // A token that is remembered lends nothing to one that only looks like it.
        assert!(verifier.verify(&good).is_ok());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (other, _) =
            ours.sign(&claims()).unwrap().rsplit_once('.').map(|(s, r)| (s.to_owned(), r.len())).unwrap();
        assert_eq!(refused(&format!("{other}.{signature}")), not_ours, "another's signature");
        assert!(verifier.verify(&format!("{signed}.")).is_err(), "no signature");
        assert_eq!(remembered(&verifier), 1);
    }

    #[tokio::test]
    async fn a_token_for_another_audience_or_of_another_issuer_is_refused() {
        let signer = signer("k1");
        let (verifier, _) = verifier(&signer, vec![]);
        let judge = |claims: &Claims| verifier.verify(&signer.sign(claims).unwrap()).map(|_| ());
        assert_eq!(judge(&claims()), Ok(()));
        let not_ours = Err(Error::Invalid("not one of ours"));
        assert_eq!(judge(&Claims { aud: "another".to_owned(), ..claims() }), not_ours);
        assert_eq!(judge(&Claims { iss: "another".to_owned(), ..claims() }), not_ours);
        assert_eq!(judge(&Claims { exp: i64::MAX, nbf: i64::MIN, ..claims() }), Ok(()), "no overflow");
    }

    #[tokio::test]
    async fn revocation_ends_older_tokens_of_that_account_only() {
        let signer = signer("k1");
        let (gone, here) = (Account::new_random(), Account::new_random());
        let revocation = Revocation { sub: gone, not_before: NOW + 1 };
        let revoked = Error::Invalid("revoked");
        let (verifier, _) = verifier(&signer, vec![revocation.clone()]);
        assert_eq!(verifier.verify(&token(&signer, gone)).unwrap_err(), revoked);
        assert!(verifier.verify(&token(&signer, here)).is_ok());
        assert_eq!(remembered(&verifier), 1);

        // One that was verified before is revoked as well.
        verifier.load(&feed(&[&signer], vec![]));
        let token = token(&signer, gone);
        let claims = verifier.verify(&token).unwrap();
        verifier.load(&feed(&[&signer], vec![revocation]));
        assert_eq!(verifier.verify(&token).unwrap_err(), revoked);
        assert!(!verifier.still_valid(&claims));
        let younger = signer.token(gone, &"ada@example.com".parse().unwrap(), NOW + 1).unwrap();
        assert!(verifier.verify(&younger).is_ok(), "a token that was issued later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_older_than_a_minute_answers_nobody() {
        let signer = signer("k1");
        let (verifier, clock) = verifier(&signer, vec![]);
        let token = token(&signer, Account::new_random());
        let claims = verifier.verify(&token).unwrap();
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert!(verifier.verify(&token).is_ok());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(verifier.verify(&token).unwrap_err(), Error::Unavailable, "though it is remembered");
        assert!(verifier.still_valid(&claims), "what was let in before goes on");
        clock.set(NOW + 3630);
        assert!(!verifier.still_valid(&claims), "but not for longer than its token");
        clock.set(NOW);
        verifier.load(&feed(&[&signer], vec![]));
        assert!(verifier.verify(&token).is_ok());
    }

    #[tokio::test]
    async fn keys_come_and_go_with_the_feed_and_take_their_tokens_along() {
        let (first, second) = (signer("k1"), signer("k2"));
        let (verifier, _) = verifier(&first, vec![]);
        let account = Account::new_random();
        let (old, new) = (token(&first, account), token(&second, account));
        let claims = verifier.verify(&old).unwrap();
        assert_eq!(verifier.verify(&new).unwrap_err(), UNKNOWN_KEY);

        verifier.load(&feed(&[&second, &first], vec![]));
        assert!(verifier.verify(&old).is_ok() && verifier.verify(&new).is_ok());
        assert!(verifier.still_valid(&claims));

        verifier.load(&feed(&[&second], vec![]));
        assert_eq!(verifier.verify(&old).unwrap_err(), UNKNOWN_KEY);
        assert!(!verifier.still_valid(&claims));
        assert!(verifier.verify(&new).is_ok());

        // The same id for another key: what the old key signed is worth nothing.
        verifier.load(&feed(&[&signer("k2")], vec![]));
        assert_eq!(verifier.verify(&new).unwrap_err(), Error::Invalid("not one of ours"));
    }

    #[tokio::test]
    async fn a_signature_is_checked_once_as_long_as_the_keys_stay() {
        let (first, second) = (signer("k1"), signer("k2"));
        let (verifier, _) = verifier(&first, vec![]);
        verifier.load(&feed(&[&first, &second], vec![]));
        let token = token(&first, Account::new_random());
        let claims = verifier.verify(&token).unwrap();
        assert!(Arc::ptr_eq(&claims, &verifier.verify(&token).unwrap()));
        verifier.load(&feed(&[&second, &first], vec![]));
        assert!(Arc::ptr_eq(&claims, &verifier.verify(&token).unwrap()), "the same keys in another order");
        verifier.load(&feed(&[&first], vec![]));
        assert!(!Arc::ptr_eq(&claims, &verifier.verify(&token).unwrap()), "other keys");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let mut verified = Verified::default();
        let claims = Arc::new(claims());
        let digest = |n: usize| Box::<[u8]>::from(n.to_be_bytes());
        verified.insert(digest(0), claims.clone());
        for n in 1..5 * GENERATION {
            verified.insert(digest(n), claims.clone());
            assert!(verified.younger.len() + verified.older.len() <= 2 * GENERATION);
            if n % 1_000 == 0 {
                assert!(verified.get(&digest(0)).is_some(), "after {n} others");
            }
        }
        assert!(verified.get(&digest(1)).is_none(), "unused for long");
        assert!(verified.get(&digest(5 * GENERATION - 1)).is_some());
    }
}
