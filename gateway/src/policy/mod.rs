//! What is decided about a request before it is passed on, in the order in which it is decided: sanity of the head,
//! (normal form and route), authentication, body limit, forwarding headers. Pure functions.

pub mod auth;
pub mod body;
pub mod forwarding;
pub mod sanity;
