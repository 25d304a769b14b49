//! The description of an API, for machines.

use anyhow::Context;
use axum::body::Bytes;
use serde_json::Value;

/// An OpenAPI document written in YAML, as the JSON that is served.
pub fn openapi(yaml: &str) -> anyhow::Result<Bytes> {
    let document: Value = serde_saphyr::from_str(yaml).context("the OpenAPI document")?;
    Ok(serde_json::to_vec(&document)?.into())
}
