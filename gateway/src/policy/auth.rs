//! Who needs a token. The services verify it again; here a request without one is refused before it costs more.

use clap::ValueEnum;
use common::auth::{self, Verifier};
use http::{HeaderMap, Method, header};

use crate::problem::Refusal;
use crate::route::Service;

/// Whether tokens are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Everything but the public routes needs a valid token.
    Required,
    /// The classroom mode: no token is asked for or looked at.
    Off,
}

/// Whether a route needs no token. `path` is the one the service gets, so both read the same.
pub(crate) fn is_public(service: Service, method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let posts = *method == Method::POST;
    match (service, path) {
        (_, "/openapi.json") | (Service::UserManager, "/confirm") => reads,
        (Service::UserManager, "/register" | "/login") => posts,
        (Service::DataCollector, "/unsubscribe") => reads || posts,
        _ => false,
    }
}

/// Refuses a request without a valid bearer token. Two tokens are as bad as none: the service might look at the
/// other one.
pub(crate) fn verify(verifier: &Verifier, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let verified = match (values.next(), values.next()) {
        (value, None) => verifier.verify_header(value),
        _ => Err(auth::Error::Missing),
    };
    verified.map(|_| ()).map_err(Refusal::Token)
}

#[cfg(test)]
mod tests {
    use common::auth::{Feed, Signer};
    use common::clock::Clock;
    use common::types::Account;

    use super::*;

    #[test]
    fn the_public_routes_are_these_and_no_others() {
        use Service::{DataCollector, UserManager};
        for (service, method, path) in [
            (UserManager, Method::POST, "/register"),
            (UserManager, Method::GET, "/confirm"),
            (UserManager, Method::POST, "/login"),
            (UserManager, Method::GET, "/openapi.json"),
            (DataCollector, Method::GET, "/openapi.json"),
            (DataCollector, Method::GET, "/unsubscribe"),
            (DataCollector, Method::POST, "/unsubscribe"),
        ] {
            assert!(is_public(service, &method, path), "{method} {path}");
        }
        for (service, method, path) in [
            (UserManager, Method::GET, "/register"),
            (UserManager, Method::POST, "/register/"),
            (UserManager, Method::POST, "/confirm"),
            (UserManager, Method::GET, "/me"),
            (UserManager, Method::POST, "/unsubscribe"),
            (DataCollector, Method::POST, "/login"),
            (DataCollector, Method::DELETE, "/unsubscribe"),
            (DataCollector, Method::GET, "/x/openapi.json"),
            (DataCollector, Method::GET, "/"),
        ] {
            assert!(!is_public(service, &method, path), "{method} {path}");
        }
    }

    #[test]
    fn only_one_valid_token_lets_a_request_pass() {
        let signer = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
        let verifier = Verifier::new(Clock::manual(1_000).0);
        let token = signer.token(Account::new_random(), &"ada@example.com".parse().unwrap(), 1_000).unwrap();
        let bearer = format!("Bearer {token}");
        let judge = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            verify(&verifier, &headers)
        };
        assert_eq!(judge(&[&bearer]), Err(Refusal::Token(auth::Error::Unavailable)), "no keys yet");
        verifier.load(&Feed { keys: vec![signer.public().clone()], revoked: vec![] });
        assert_eq!(judge(&[&bearer]), Ok(()));
        for values in [&[][..], &["Bearer"], &["Basic a"], &[&token], &[&bearer, &bearer]] {
            assert_eq!(judge(values), Err(Refusal::Token(auth::Error::Missing)), "{values:?}");
        }
        assert!(matches!(judge(&["Bearer a.b.c"]), Err(Refusal::Token(auth::Error::Invalid(_)))));
    }
}
