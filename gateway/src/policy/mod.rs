//! What is decided about a request before it is passed on, in the order in which it is decided: sanity of the head,
//! (normal form and route), authentication, body limit, forwarding headers. Pure functions.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod forwarding;
pub(crate) mod sanity;
