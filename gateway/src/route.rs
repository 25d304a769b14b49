//! Which service a path belongs to: by its first segment, compared whole and case-sensitively.

/// A service behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    /// Accounts and tokens.
    UserManager,
    /// Interests and flights.
    DataCollector,
}

impl Service {
    /// The first path segment, and the name in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::UserManager => "user_manager",
            Service::DataCollector => "data_collector",
        }
    }

    fn named(name: &[u8]) -> Option<Service> {
        [Service::UserManager, Service::DataCollector].into_iter().find(|s| s.name().as_bytes() == name)
    }
}

/// What becomes of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// The service gets the rest of the path, which begins with `/`.
    Proxy {
        /// Who gets it.
        service: Service,
        /// The path as the service sees it, decoded.
        rest: &'a [u8],
    },
    /// The bare name of a service: the client is sent to the name with a slash.
    Redirect(Service),
    /// Nobody's.
    Unknown,
}

/// Finds the route of a normal, decoded path.
pub(crate) fn route(path: &[u8]) -> Route<'_> {
    let inner = path.strip_prefix(b"/").unwrap_or(path);
    let length = inner.iter().position(|byte| *byte == b'/').unwrap_or(inner.len());
    let (name, rest) = inner.split_at(length);
    match Service::named(name) {
        Some(service) if rest.is_empty() => Route::Redirect(service),
        Some(service) => Route::Proxy { service, rest },
        None => Route::Unknown,
    }
}

/// Where the bare name of a service redirects to: relative, so that it is right behind any name and port.
pub(crate) fn location(service: Service, query: Option<&[u8]>) -> Vec<u8> {
    let mut location = format!("/{}/", service.name()).into_bytes();
    if let Some(query) = query {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    location
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_first_segment_names_a_service() {
        assert_eq!(route(b"/user_manager/a"), Route::Proxy { service: Service::UserManager, rest: b"/a" });
        assert_eq!(route(b"/data_collector/"), Route::Proxy { service: Service::DataCollector, rest: b"/" });
        assert_eq!(route(b"/user_manager"), Route::Redirect(Service::UserManager));
        for path in ["/", "/user_managers/a", "/user_manage", "/User_manager/a", "/x/user_manager/a"] {
            assert_eq!(route(path.as_bytes()), Route::Unknown, "{path}");
        }
    }
}
