use common::messages::UserForgotten;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::service::{PASSWORD, Service, databases, problem};
use common::testing::eventually;

#[tokio::test]
async fn a_deleted_account_is_gone_for_everybody_at_once() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let profile = service.register("ada@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        let request =
            service.request(Method::DELETE, "/me").bearer_auth(&token).header("x-request-id", "r-42");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::NO_CONTENT);

        problem(service.me(&token).await, StatusCode::UNAUTHORIZED, "unauthorized").await;
        assert_eq!(service.try_login("ada@example.com", PASSWORD).await, StatusCode::UNAUTHORIZED);
        let feed = service.feed().await;
        assert!(
            feed.revoked.iter().any(|revoked| revoked.sub.to_string() == profile["id"].as_str().unwrap())
        );
        assert!(service.verifier().await.verify(&token).is_err());

        let told = eventually("user-forgotten on the bus", async || {
            let records = service.log.read_all("user-forgotten").await.unwrap();
            (!records.is_empty()).then_some(records)
        })
        .await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].headers["request_id"], "r-42");
        assert_eq!(told[0].key, profile["id"].as_str().unwrap());
        let message: UserForgotten = serde_json::from_slice(&told[0].payload).unwrap();
        assert_eq!(message.account.to_string(), profile["id"].as_str().unwrap());
        assert_eq!(message.email.as_str(), "ada@example.com");
    }
}

#[tokio::test]
async fn an_address_that_registers_again_is_a_new_account() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let first = service.register("ada@example.com").await;
        let old = service.login("ada@example.com", PASSWORD).await;
        service.request(Method::DELETE, "/me").bearer_auth(&old).send().await.unwrap();
        let second = service.register("ada@example.com").await;
        assert_ne!(first["id"], second["id"]);
        let new = service.login("ada@example.com", PASSWORD).await;
        assert_eq!(service.me(&new).await.status(), StatusCode::OK);
        assert_eq!(service.me(&old).await.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn by_address_only_ones_own_account_can_be_deleted() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        service.register("eve@example.com").await;
        let eve = service.login("eve@example.com", PASSWORD).await;
        let delete = async |email: &str| {
            let request = service.request(Method::DELETE, "/delete").bearer_auth(&eve);
            request.json(&json!({"email": email})).send().await.unwrap()
        };
        problem(delete("ada@example.com").await, StatusCode::FORBIDDEN, "forbidden").await;
        let other = || service.request(Method::DELETE, "/me").bearer_auth(&eve);
        for request in
            [other().header("email", "ada@example.com"), other().query(&[("email", "ada@example.com")])]
        {
            problem(request.send().await.unwrap(), StatusCode::FORBIDDEN, "forbidden").await;
        }
        service.login("ada@example.com", PASSWORD).await;
        assert_eq!(delete("Eve@Example.com").await.status(), StatusCode::NO_CONTENT);
        assert_eq!(service.try_login("eve@example.com", PASSWORD).await, StatusCode::UNAUTHORIZED);
        let nobody = service.request(Method::DELETE, "/me").send().await.unwrap();
        problem(nobody, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
}
