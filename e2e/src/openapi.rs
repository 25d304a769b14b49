//! The OpenAPI documents, as a client reads them: which operations there are, and whether an answer is one of theirs.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::Validator;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The documents of both services, by the prefix they have at the gateway.
pub static DOCUMENTS: LazyLock<[Document; 2]> = LazyLock::new(|| {
    [
        Document::read("/user_manager", include_str!("../../docs/openapi/user_manager.yaml")),
        Document::read("/data_collector", include_str!("../../docs/openapi/data_collector.yaml")),
    ]
});

/// The document of one service.
pub struct Document {
    /// Where the service is at the gateway.
    pub prefix: &'static str,
    /// All of it.
    pub value: Value,
}

/// An operation of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// Where its service is at the gateway.
    pub prefix: &'static str,
    /// The path behind the prefix, with its parameters in braces.
    pub path: String,
    /// `GET`, `PUT`, …
    pub method: String,
}

impl Document {
    fn read(prefix: &'static str, yaml: &str) -> Document {
        let json = common::http::openapi(yaml).unwrap();
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["servers"][0]["url"], prefix);
        Document { prefix, value }
    }

    /// The paths behind the prefix.
    pub fn paths(&self) -> BTreeSet<String> {
        self.value["paths"].as_object().unwrap().keys().cloned().collect()
    }

    /// Everything that can be asked.
    pub fn operations(&self) -> Vec<Operation> {
        let methods = |path: &String| {
            let item = self.value["paths"][path].as_object().unwrap();
            let names = item.keys().filter(|name| *name != "parameters");
            names.map(|name| name.to_uppercase()).collect::<Vec<_>>()
        };
        let operation = |path: &String, method| Operation { prefix: self.prefix, path: path.clone(), method };
        self.paths()
            .iter()
            .flat_map(|path| methods(path).into_iter().map(|method| operation(path, method)))
            .collect()
    }

    /// What the document says of an operation.
    pub fn describes(&self, operation: &Operation) -> &Value {
        &self.value["paths"][&operation.path][operation.method.to_lowercase()]
    }

    /// Follows a reference, if that is what it is.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => self.value.pointer(place.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }

    fn find(&self, method: &Method, path: &str) -> Option<Operation> {
        let fits = |template: &String| {
            let (template, path): (Vec<&str>, Vec<&str>) =
                (template.split('/').collect(), path.split('/').collect());
            template.len() == path.len()
                && template.iter().zip(&path).all(|(a, b)| a == b || (a.starts_with('{') && !b.is_empty()))
        };
        let operation = |path| Operation { prefix: self.prefix, path, method: method.to_string() };
        let mut found = self.paths().into_iter().filter(fits).map(operation);
        found.find(|operation| self.describes(operation).is_object())
    }

    fn schema(&self, schema: &Value) -> Validator {
        // References lead to the document's components.
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": self.value["components"],
        });
        jsonschema::options().should_validate_formats(true).build(&whole).unwrap()
    }
}

/// The operation that a request through the gateway is, if there is one; `path` may have a query.
pub fn operation(method: &Method, path: &str) -> Option<Operation> {
    let path = path.split('?').next().unwrap_or_default();
    DOCUMENTS.iter().find_map(|document| document.find(method, path.strip_prefix(document.prefix)?))
}

/// Whether an answer is one that the document knows: its status, its kind, its content.
pub fn check(
    operation: &Operation,
    status: StatusCode,
    kind: Option<&str>,
    body: &Value,
) -> Result<(), String> {
    let document = DOCUMENTS.iter().find(|document| document.prefix == operation.prefix).unwrap();
    let what = || format!("{operation:?} answered {status} {kind:?} {body}");
    let response = &document.describes(operation)["responses"][status.as_str()];
    if response.is_null() {
        return Err(format!("{}: no such status is documented", what()));
    }
    let content = &document.resolved(response)["content"];
    let Some(kind) = kind else {
        return if content.is_null() { Ok(()) } else { Err(format!("{}: it should have content", what())) };
    };
    let essence = kind.split(';').next().unwrap_or_default();
    let described = &content[essence];
    if described.is_null() {
        return Err(format!("{}: no such content is documented", what()));
    }
    match document.schema(&described["schema"]).validate(body) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{}: {error} at {}", what(), error.instance_path())),
    }
}
