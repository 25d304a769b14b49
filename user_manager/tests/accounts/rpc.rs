//! VerifyUser, as the other services ask it.

use common::clock::Clock;
use common::db::Backend;
use common::rpc::users::users_client::UsersClient;
use common::rpc::users::verify_user_request::Who;
use common::rpc::users::{User, VerifyUserRequest};
use common::testing::postgres;
use common::types::Account;
use reqwest::{Method, StatusCode};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::service::{PASSWORD, Service, databases, link};

async fn channel(service: &Service) -> Channel {
    Endpoint::from_shared(service.grpc.clone()).unwrap().connect().await.unwrap()
}

async fn verify(channel: &Channel, who: Option<Who>) -> Result<Option<User>, Status> {
    let answer = UsersClient::new(channel.clone()).verify_user(VerifyUserRequest { who }).await?;
    Ok(answer.into_inner().user)
}

#[tokio::test]
async fn a_user_is_found_by_account_and_by_address_in_any_case() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let profile = service.register("ada@example.com").await;
        let account = profile["id"].as_str().unwrap().to_owned();
        let channel = channel(&service).await;
        let ada = Some(User { account: account.clone(), email: "ada@example.com".to_owned() });
        let by_email = |email: &str| Some(Who::Email(email.to_owned()));
        assert_eq!(verify(&channel, Some(Who::Account(account.clone()))).await.unwrap(), ada);
        assert_eq!(verify(&channel, by_email(" ADA@Example.com")).await.unwrap(), ada);
        assert_eq!(verify(&channel, by_email("eve@example.com")).await.unwrap(), None);
        let nobody = Account::new_random().to_string();
        assert_eq!(verify(&channel, Some(Who::Account(nobody))).await.unwrap(), None);
        for bad in [None, by_email("ada"), Some(Who::Account("ada".to_owned()))] {
            assert_eq!(verify(&channel, bad).await.unwrap_err().code(), Code::InvalidArgument);
        }
        let token = service.login("ada@example.com", PASSWORD).await;
        let deleted = service.request(Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
        assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
        assert_eq!(verify(&channel, Some(Who::Account(account))).await.unwrap(), None);
    }
}

#[tokio::test]
async fn who_has_not_confirmed_the_address_is_nobody() {
    for db in databases().await {
        let (service, _) = Service::with(&db, &["--confirm-email=on"]).await;
        service.register("ada@example.com").await;
        let channel = channel(&service).await;
        let who = || Some(Who::Email("ada@example.com".to_owned()));
        assert_eq!(verify(&channel, who()).await.unwrap(), None);
        service.open(&link(&service.mails_when(1).await[0])).await;
        assert!(verify(&channel, who()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn the_health_service_answers_and_requests_have_bounds() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let channel = channel(&service).await;
        let health = async |name: &str| {
            let request = HealthCheckRequest { service: name.to_owned() };
            let answer = HealthClient::new(channel.clone()).check(request).await;
            answer.map(|answer| answer.into_inner().status())
        };
        for name in ["", "vedetta.users.v1.Users"] {
            assert_eq!(health(name).await.unwrap(), ServingStatus::Serving, "{name}");
        }
        assert_eq!(health("nobody").await.unwrap_err().code(), Code::NotFound);

        let long = verify(&channel, Some(Who::Email("x".repeat(5000)))).await.unwrap_err();
        assert_eq!(long.code(), Code::OutOfRange, "{long:?}");
    }
}

/// The table is locked for longer than a call may take. The client sets no time-out, so it is the server's that ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_database_does_not_answer_ends_in_time() {
    let Some(url) = postgres("user_manager: deadlines").await else { return };
    let service = Service::replica(&url, "one", Clock::System).await;
    service.register("ada@example.com").await;
    let channel = channel(&service).await;
    let Backend::Postgres(pool) = common::db::connect_for_tests(&url) else { panic!("it is PostgreSQL") };
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    let late = verify(&channel, Some(Who::Email("ada@example.com".into()))).await.unwrap_err();
    // The database would give up later, and be called unavailable.
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late:?}");
    tx.rollback().await.unwrap();
    assert!(verify(&channel, Some(Who::Email("ada@example.com".into()))).await.unwrap().is_some());
}

/// Neither somebody who watches the health service without end, nor one who says nothing, keeps it from stopping.
#[tokio::test]
async fn a_stop_waits_for_nobody_who_only_listens() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let channel = channel(&service).await;
        let request = HealthCheckRequest { service: "vedetta.users.v1.Users".to_owned() };
        let mut watched = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
        let first = watched.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        let _silent =
            tokio::net::TcpStream::connect(service.grpc.trim_start_matches("http://")).await.unwrap();
        service.stop().await;
        let last = watched.message().await;
        assert!(!matches!(last, Ok(Some(last)) if last.status() == ServingStatus::Serving));
    }
}
