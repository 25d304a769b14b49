//! Which service a path belongs to: by its first segments, compared whole and case-sensitively.

use std::sync::Arc;

use crate::settings::RouteSettings;

/// All routes, the longest prefix first.
#[derive(Debug)]
pub(crate) struct Routes(Vec<Arc<Route>>);

/// Paths that belong to one service.
#[derive(Debug)]
pub(crate) struct Route {
    /// The name in logs and metrics: the prefix without its slashes.
    pub(crate) name: Arc<str>,
    /// As configured.
    pub(crate) settings: RouteSettings,
}

/// What becomes of a path.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// The service gets the rest of the path, which begins with `/`.
    Proxy {
        /// Who gets it.
        route: &'a Arc<Route>,
        /// The path as the service sees it, decoded.
        rest: &'a [u8],
    },
    /// The bare name of a route: the client is sent to the name with a slash.
    Redirect(&'a Arc<Route>),
    /// Nobody's.
    Unknown,
}

impl Routes {
    /// Routes with distinct prefixes of the form `/name/`.
    pub(crate) fn new(settings: &[RouteSettings]) -> Routes {
        let mut routes: Vec<_> = settings.iter().map(|route| Arc::new(Route::new(route))).collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.settings.prefix.len()));
        Routes(routes)
    }

    /// Finds the route of a normal, decoded path.
    pub(crate) fn find<'a>(&'a self, path: &'a [u8]) -> Found<'a> {
        for route in &self.0 {
            let bare = route.settings.prefix.trim_end_matches('/').as_bytes();
            match path.strip_prefix(bare) {
                Some(b"") => return Found::Redirect(route),
                Some(rest) if rest.starts_with(b"/") => return Found::Proxy { route, rest },
                _ => {}
            }
        }
        Found::Unknown
    }
}

impl Route {
    fn new(settings: &RouteSettings) -> Route {
        Route { name: settings.prefix.trim_matches('/').into(), settings: settings.clone() }
    }

    /// Where the bare name redirects to: relative, so that it is right behind any name and port.
    pub(crate) fn location(&self, query: Option<&[u8]>) -> Vec<u8> {
        let mut location = self.settings.prefix.clone().into_bytes();
        if let Some(query) = query {
            location.push(b'?');
            location.extend_from_slice(query);
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_first_segments_name_a_route() {
        let routes = ["/user_manager/", "/a/", "/a/b/"].map(|prefix| RouteSettings::new(prefix, 0));
        let routes = Routes::new(&routes);
        let find = |path: &'static str| match routes.find(path.as_bytes()) {
            Found::Proxy { route, rest } => format!("{} {}", route.name, String::from_utf8_lossy(rest)),
            Found::Redirect(route) => format!("{} redirect", route.name),
            Found::Unknown => String::new(),
        };
        assert_eq!(find("/user_manager/x"), "user_manager /x");
        assert_eq!(find("/user_manager/"), "user_manager /");
        assert_eq!(find("/user_manager"), "user_manager redirect");
        assert_eq!(find("/a/b/c"), "a/b /c");
        assert_eq!(find("/a/bc"), "a /bc");
        for path in ["/", "/user_managers/a", "/user_manage", "/User_manager/a", "/x/user_manager/a"] {
            assert_eq!(find(path), "", "{path}");
        }
    }
}
