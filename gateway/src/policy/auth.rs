//! Who needs a token. The services verify it again; here a request without one is refused before it costs more.

use std::sync::Arc;

use common::auth::{Claims, Verifier};
use http::{HeaderMap, header};

use super::only;
use crate::problem::Refusal;

/// What the token of a request says; refuses a request without a valid bearer token. Two tokens are as bad as none:
/// the service might look at the other one.
pub(crate) fn verify(verifier: &Verifier, headers: &HeaderMap) -> Result<Arc<Claims>, Refusal> {
    verifier.verify_header(only(headers, &header::AUTHORIZATION)).map_err(Refusal::Token)
}

#[cfg(test)]
mod tests {
    use common::auth::{self, Feed, Signer};
    use common::clock::Clock;
    use common::types::Account;
    use http::Method;

    use super::*;
    use crate::settings::Settings;

    #[test]
    fn the_public_operations_are_these_and_no_others() {
        let routes = Settings::default().routes;
        let is_public = |prefix: &str, method: &Method, path: &str| {
            let mut routes = routes.iter().filter(|route| route.prefix == prefix);
            routes.next().unwrap().is_public(method, path)
        };
        let (users, data) = ("/user_manager/", "/data_collector/");
        for (route, method, path) in [
            (users, Method::POST, "/register"),
            (users, Method::GET, "/confirm"),
            (users, Method::HEAD, "/confirm"),
            (users, Method::POST, "/login"),
            (users, Method::GET, "/openapi.json"),
            (data, Method::GET, "/openapi.json"),
            (data, Method::HEAD, "/openapi.json"),
            (data, Method::GET, "/unsubscribe"),
            (data, Method::POST, "/unsubscribe"),
        ] {
            assert!(is_public(route, &method, path), "{method} {route} {path}");
        }
        for (route, method, path) in [
            (users, Method::GET, "/register"),
            (users, Method::POST, "/register/"),
            (users, Method::POST, "/confirm"),
            (users, Method::GET, "/me"),
            (users, Method::POST, "/unsubscribe"),
            (users, Method::POST, "/Login"),
            (users, Method::OPTIONS, "/login"),
            (data, Method::POST, "/login"),
            (data, Method::DELETE, "/unsubscribe"),
            (data, Method::GET, "/x/openapi.json"),
            (data, Method::GET, "/"),
        ] {
            assert!(!is_public(route, &method, path), "{method} {route} {path}");
        }
        assert_eq!(routes.iter().map(|route| route.public.len()).collect::<Vec<_>>(), [4, 3]);
    }

    #[test]
    fn what_hashes_a_password_is_costly() {
        let routes = Settings::default().routes;
        for (path, costly) in [("/register", true), ("/login", true), ("/password", true), ("/me", false)] {
            assert_eq!(routes[0].is_costly(&Method::POST, path), costly, "{path}");
        }
        assert!(!routes[0].is_costly(&Method::GET, "/login") && routes[1].costly.is_empty());
    }

    #[test]
    fn only_one_valid_token_lets_a_request_pass() {
        let signer = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
        let verifier = Verifier::new(Clock::manual(1_000).0);
        let account = Account::new_random();
        let token = signer.token(account, &"ada@example.com".parse().unwrap(), 1_000).unwrap();
        let bearer = format!("Bearer {token}");
        let judge = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            verify(&verifier, &headers).map(|claims| claims.sub)
        };
        assert_eq!(judge(&[&bearer]), Err(Refusal::Token(auth::Error::Unavailable)), "no keys yet");
        verifier.load(&Feed { keys: vec![signer.public().clone()], revoked: vec![] });
        assert_eq!(judge(&[&bearer]), Ok(account));
        for values in [&[][..], &["Bearer"], &["Basic a"], &[&token], &[&bearer, &bearer]] {
            assert_eq!(judge(values), Err(Refusal::Token(auth::Error::Missing)), "{values:?}");
        }
        assert!(matches!(judge(&["Bearer a.b.c"]), Err(Refusal::Token(auth::Error::Invalid(_)))));
    }
}
