//! What services ask each other over gRPC: the code made from `common/proto`.

/// Who has an account.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "made by tonic-prost-build")]
pub mod users {
    tonic::include_proto!("vedetta.users.v1");
}
