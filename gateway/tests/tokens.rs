//! Tokens at the edge: what is not ours, not any longer, or cannot be told, reaches no service.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::auth::{Revocation, Signer};
use common::types::Account;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use support::{NOW, World, eventually, problem};

const LIFETIME: i64 = 3600;

/// A world in which one client may ask as often as it takes.
async fn world() -> World {
    World::with_config("[limits]\nrate = \"off\"\nrate_login = \"off\"\n").await
}

fn claims() -> Value {
    json!({
        "iss": "vedetta", "aud": "vedetta", "sub": Account::new_random(), "email": "ada@example.com",
        "iat": NOW, "nbf": NOW, "exp": NOW + LIFETIME,
    })
}

fn header() -> Value {
    json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1" })
}

/// `value` with some members replaced; null takes one away.
fn with(mut value: Value, changes: Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            _ => value[name] = change.clone(),
        }
    }
    value
}

/// A token with this signature over its header and claims.
fn sealed(header: &Value, claims: &Value, seal: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(seal(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A token signed with the key of the gateway's feed.
fn signed(world: &World, header: &Value, claims: &Value) -> String {
    let key = Ed25519KeyPair::from_pkcs8(&world.key).unwrap();
    sealed(header, claims, |message| key.sign(message).as_ref().to_vec())
}

fn hmac_with(key: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// Both protocols.
fn clients(world: &World) -> [Client; 2] {
    [world.client(), world.client_builder().http1_only().build().unwrap()]
}

async fn status(client: &Client, world: &World, token: &str) -> StatusCode {
    client.get(world.url("/user_manager/me")).bearer_auth(token).send().await.unwrap().status()
}

#[tokio::test]
async fn no_forged_token_reaches_a_service() {
    let world = world().await;
    let good = signed(&world, &header(), &claims());
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let stranger = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
    let public = &world.signer.public().x;
    let raw_public = URL_SAFE_NO_PAD.decode(public).unwrap();
    let as_hmac = with(header(), json!({ "alg": "HS256" }));
    let other_claims = URL_SAFE_NO_PAD.encode(claims().to_string());
    let a_jwk = json!({ "jwk": stranger.public(), "kid": "k9" });
    let forged = [
        ("another key under the same id", {
            stranger.token(Account::new_random(), &"ada@example.com".parse().unwrap(), NOW).unwrap()
        }),
        ("other claims under a signature", format!("{head}.{other_claims}.{signature}")),
        ("no signature", format!("{head}.{body}.")),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{good}.{signature}")),
        ("alg none", sealed(&with(header(), json!({ "alg": "none" })), &claims(), |_| vec![])),
        ("alg None", sealed(&with(header(), json!({ "alg": "None" })), &claims(), |_| vec![])),
        ("no alg", signed(&world, &with(header(), json!({ "alg": null })), &claims())),
        ("the public key as a secret", sealed(&as_hmac, &claims(), hmac_with(&raw_public))),
        ("the public key's text as a secret", sealed(&as_hmac, &claims(), hmac_with(public.as_bytes()))),
        ("the wrong algorithm over a good signature", signed(&world, &as_hmac, &claims())),
        ("an unknown key id", signed(&world, &with(header(), json!({ "kid": "k2" })), &claims())),
        ("no key id", signed(&world, &with(header(), json!({ "kid": null })), &claims())),
        ("a key of its own", signed(&world, &with(header(), a_jwk), &claims())),
    ];
    for (why, token) in &forged {
        for client in clients(&world) {
            let request = client.get(world.url("/user_manager/me")).bearer_auth(token);
            let answer = request.send().await.unwrap();
            let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
            assert_eq!(challenge, "Bearer error=\"invalid_token\"", "{why}");
            problem(answer, 401, "unauthorized").await;
        }
    }
    assert_eq!(world.user_manager.served(), 0);
    assert_eq!(status(&world.client(), &world, &good).await, 200, "the test's own tokens are good");
}

#[tokio::test]
async fn a_well_signed_token_for_somebody_or_some_time_else_is_refused() {
    let world = world().await;
    let client = world.client();
    for (why, changes) in [
        ("another audience", json!({ "aud": "another" })),
        ("no audience", json!({ "aud": null })),
        ("another issuer", json!({ "iss": "another" })),
        ("no issuer", json!({ "iss": null })),
        ("expired", json!({ "exp": NOW - 60 })),
        ("no expiry", json!({ "exp": null })),
        ("not valid yet", json!({ "nbf": NOW + 60 })),
        ("nobody's", json!({ "sub": null })),
        ("a subject that is no account", json!({ "sub": "root" })),
    ] {
        let token = signed(&world, &header(), &with(claims(), changes));
        assert_eq!(status(&client, &world, &token).await, 401, "{why}");
    }
    assert_eq!(world.user_manager.served(), 0);
}

#[tokio::test]
async fn a_token_that_was_good_a_moment_ago_is_looked_at_again() {
    let world = world().await;
    let token = world.token();
    for client in clients(&world) {
        world.clock.set(NOW);
        for _ in 0..3 {
            assert_eq!(status(&client, &world, &token).await, 200);
        }
        world.clock.set(NOW + LIFETIME + 29);
        assert_eq!(status(&client, &world, &token).await, 200, "clocks may differ by 30 s");
        world.clock.set(NOW + LIFETIME + 30);
        assert_eq!(status(&client, &world, &token).await, 401);
    }
}

#[tokio::test]
async fn one_good_token_does_not_help_another() {
    let world = world().await;
    let good = world.token();
    let client = world.client();
    assert_eq!(status(&client, &world, &good).await, 200);
    for bad in [format!("{good}A"), good[..good.len() - 1].to_owned(), good.to_uppercase()] {
        assert_eq!(status(&client, &world, &bad).await, 401, "{bad}");
    }
    let twice = client.get(world.url("/user_manager/me")).bearer_auth(&good).bearer_auth(&good);
    problem(twice.send().await.unwrap(), 401, "unauthorized").await;
    let basic = client.get(world.url("/user_manager/me")).header("authorization", format!("Basic {good}"));
    problem(basic.send().await.unwrap(), 401, "unauthorized").await;
    let in_query = client.get(world.url(&format!("/user_manager/me?access_token={good}")));
    problem(in_query.send().await.unwrap(), 401, "unauthorized").await;
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart() {
    let world = world().await;
    let client = world.client();
    let old = world.token();
    let second = Signer::from_pkcs8("k2", &Signer::generate().unwrap()).unwrap();
    let new = second.token(Account::new_random(), &"ada@example.com".parse().unwrap(), NOW).unwrap();
    assert_eq!(status(&client, &world, &old).await, 200);
    assert_eq!(status(&client, &world, &new).await, 401);

    world.keys.publish(&[&world.signer, &second], vec![]);
    eventually(async || status(&client, &world, &new).await == 200).await;
    assert_eq!(status(&client, &world, &old).await, 200, "both are good while both keys are published");

    world.keys.publish(&[&second], vec![]);
    eventually(async || status(&client, &world, &old).await == 401).await;
    assert_eq!(status(&client, &world, &new).await, 200);
}

#[tokio::test]
async fn a_key_that_changes_under_its_id_ends_the_tokens_of_the_old_one() {
    let world = world().await;
    let client = world.client();
    let old = world.token();
    assert_eq!(status(&client, &world, &old).await, 200);
    let second = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
    world.keys.publish(&[&second], vec![]);
    eventually(async || status(&client, &world, &old).await == 401).await;
}

#[tokio::test]
async fn a_revocation_ends_the_tokens_of_its_account_within_fifteen_seconds() {
    let world = world().await;
    let (gone, here) = (Account::new_random(), Account::new_random());
    let (of_gone, of_here) = (world.token_of(gone), world.token_of(here));
    let [http2, http1] = clients(&world);
    for client in [&http2, &http1] {
        assert_eq!(status(client, &world, &of_gone).await, 200);
        assert_eq!(status(client, &world, &of_here).await, 200);
    }
    world.keys.publish(&[&world.signer], vec![Revocation { sub: gone, not_before: NOW + 1 }]);
    let refused = eventually(async || status(&http2, &world, &of_gone).await == 401);
    tokio::time::timeout(Duration::from_secs(15), refused).await.unwrap();
    assert_eq!(status(&http1, &world, &of_gone).await, 401);
    assert_eq!(status(&http1, &world, &of_here).await, 200);
    let later = with(claims(), json!({ "sub": gone, "iat": NOW + 1, "nbf": NOW + 1 }));
    let later = signed(&world, &header(), &later);
    assert_eq!(status(&http1, &world, &later).await, 200, "a new login counts");
}

#[tokio::test]
async fn a_feed_that_cannot_be_had_is_lived_without_for_a_minute_and_no_longer() {
    let world = world().await;
    let client = world.client();
    let token = world.token();
    assert_eq!(status(&client, &world, &token).await, 200);
    world.keys.withhold_feed();
    assert_eq!(status(&client, &world, &token).await, 200);
    // The only test here that waits for real: the age of the feed is measured by the machine.
    eventually(async || status(&client, &world, &token).await == 503).await;
    let answer = client.get(world.url("/user_manager/me")).bearer_auth(&token).send().await.unwrap();
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 503, "unavailable").await;
    let public = client.post(world.url("/user_manager/login")).send().await.unwrap();
    assert_eq!(public.status(), 200, "what needs no token goes on");

    world.keys.publish(&[&world.signer], vec![]);
    eventually(async || status(&client, &world, &token).await == 200).await;
}
