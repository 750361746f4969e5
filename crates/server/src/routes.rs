//! The one route table: which path exists on which server, by which methods, and what a caller must be allowed to.
//!
//! A request that matches no row is still authenticated, and must be allowed what its path asks for, before it learns
//! that there is nothing (404).

use crate::query::segment;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Healthz,
    HealthzCheck,
    Pods,
    RunningPods,
    StatsSummary,
    Metrics,
    MetricsCadvisor,
    MetricsResource,
    MetricsProbes,
    MetricsSlis,
    Run,
    Exec,
    Attach,
    PortForward,
    ContainerLogs,
    Checkpoint,
    Configz,
    Logs,
    Pprof,
    DebugFlags,
    Statusz,
    Flagz,
}

/// Where a route exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Also on the read-only port, and without debugging handlers.
    Everywhere,
    /// On 10250; answers 405 when enableDebuggingHandlers is off.
    Debugging,
    /// On 10250; absent when enableDebuggingHandlers is off.
    Optional,
}

/// How the verb for authorization is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET get, POST create, PUT update, PATCH patch, DELETE delete.
    OfMethod,
    /// `create` whatever the method: it runs code in a container.
    Create,
}

#[derive(Debug)]
pub struct Route {
    /// `{name}` takes one segment, `{name*}` the rest.
    pub pattern: &'static str,
    pub methods: &'static [&'static str],
    pub endpoint: Endpoint,
    pub reach: Reach,
    pub verb: Verb,
}

const GET: &[&str] = &["GET"];
/// Of endpoints that do not look at the method.
const ANY: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const GET_POST: &[&str] = &["GET", "POST"];
const POST: &[&str] = &["POST"];

const fn read(pattern: &'static str, endpoint: Endpoint) -> Route {
    Route { pattern, methods: GET, endpoint, reach: Reach::Everywhere, verb: Verb::OfMethod }
}

const fn debugging(pattern: &'static str, endpoint: Endpoint, methods: &'static [&'static str]) -> Route {
    Route { pattern, methods, endpoint, reach: Reach::Debugging, verb: Verb::OfMethod }
}

const fn runs_code(pattern: &'static str, endpoint: Endpoint, methods: &'static [&'static str]) -> Route {
    Route { verb: Verb::Create, ..debugging(pattern, endpoint, methods) }
}

const fn optional(pattern: &'static str, endpoint: Endpoint) -> Route {
    Route { reach: Reach::Optional, ..read(pattern, endpoint) }
}

pub static ROUTES: &[Route] = &[
    Route { methods: ANY, ..read("/healthz", Endpoint::Healthz) },
    Route { methods: ANY, ..read("/healthz/{check}", Endpoint::HealthzCheck) },
    read("/pods", Endpoint::Pods),
    Route { methods: GET_POST, ..read("/stats/summary", Endpoint::StatsSummary) },
    Route { methods: ANY, ..read("/metrics", Endpoint::Metrics) },
    Route { methods: ANY, ..read("/metrics/cadvisor", Endpoint::MetricsCadvisor) },
    Route { methods: ANY, ..read("/metrics/resource", Endpoint::MetricsResource) },
    Route { methods: ANY, ..read("/metrics/probes", Endpoint::MetricsProbes) },
    Route { methods: ANY, ..read("/metrics/slis", Endpoint::MetricsSlis) },
    debugging("/runningpods", Endpoint::RunningPods, GET),
    runs_code("/run/{namespace}/{pod}/{container}", Endpoint::Run, POST),
    runs_code("/run/{namespace}/{pod}/{uid}/{container}", Endpoint::Run, POST),
    runs_code("/exec/{namespace}/{pod}/{container}", Endpoint::Exec, GET_POST),
    runs_code("/exec/{namespace}/{pod}/{uid}/{container}", Endpoint::Exec, GET_POST),
    runs_code("/attach/{namespace}/{pod}/{container}", Endpoint::Attach, GET_POST),
    runs_code("/attach/{namespace}/{pod}/{uid}/{container}", Endpoint::Attach, GET_POST),
    runs_code("/portForward/{namespace}/{pod}", Endpoint::PortForward, GET_POST),
    runs_code("/portForward/{namespace}/{pod}/{uid}", Endpoint::PortForward, GET_POST),
    debugging("/containerLogs/{namespace}/{pod}/{container}", Endpoint::ContainerLogs, GET),
    Route { methods: POST, ..optional("/checkpoint/{namespace}/{pod}/{container}", Endpoint::Checkpoint) },
    Route { methods: ANY, ..optional("/configz", Endpoint::Configz) },
    debugging("/logs", Endpoint::Logs, GET),
    debugging("/logs/{path*}", Endpoint::Logs, GET),
    debugging("/debug/pprof", Endpoint::Pprof, GET),
    debugging("/debug/pprof/{path*}", Endpoint::Pprof, GET),
    // Answers 406 itself to all but PUT.
    Route { methods: ANY, ..optional("/debug/flags/v", Endpoint::DebugFlags) },
    optional("/statusz", Endpoint::Statusz),
    Route { methods: ANY, ..optional("/flagz", Endpoint::Flagz) },
];

/// Below these, all paths are answered alike (405) where there are no debugging handlers.
const DEBUGGING: &[&str] =
    &["run/", "exec/", "attach/", "portForward/", "containerLogs/", "runningpods/", "debug/pprof/", "logs/"];

pub fn is_debugging(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or_default();
    DEBUGGING.iter().any(|prefix| path.starts_with(prefix))
}

/// What of `nodes` the paths below a first segment need: any of these, tried in this order.
const SUBRESOURCES: &[(&str, &[&str])] = &[
    ("healthz", &["healthz", "proxy"]),
    ("pods", &["pods", "proxy"]),
    ("allocatedPods", &["pods", "proxy"]),
    ("runningpods", &["pods", "proxy"]),
    ("configz", &["configz", "proxy"]),
    ("stats", &["stats"]),
    ("metrics", &["metrics"]),
    ("logs", &["log"]),
    ("checkpoint", &["checkpoint"]),
    ("statusz", &["statusz"]),
    ("flagz", &["configz"]),
];

/// The subresources of a path, whether it leads to anything or not.
pub fn subresources(path: &str) -> &'static [&'static str] {
    let path = path.strip_prefix('/').unwrap_or_default();
    let first = path.split('/').next().unwrap_or_default();
    SUBRESOURCES.iter().find(|(prefix, _)| *prefix == first).map_or(&["proxy"], |(_, subresources)| subresources)
}

/// The values of a pattern's placeholders.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    /// Empty when the pattern has no such placeholder.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value.as_str())
    }
}

/// The route of a path, whatever the method. A slash at the end does not matter.
pub fn find(path: &str) -> Option<(&'static Route, Params)> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    ROUTES.iter().find_map(|route| Some((route, params(route.pattern, path)?)))
}

fn params(pattern: &'static str, path: &str) -> Option<Params> {
    let mut params = Params::default();
    let mut given = path.split('/');
    for want in pattern[1..].split('/') {
        let Some(name) = want.strip_prefix('{').and_then(|w| w.strip_suffix('}')) else {
            if given.next()? != want {
                return None;
            }
            continue;
        };
        if let Some(name) = name.strip_suffix('*') {
            let rest: Option<Vec<_>> = given.by_ref().map(segment).collect();
            let rest = rest.filter(|rest| !rest.is_empty())?;
            params.0.push((name, rest.join("/")));
            return Some(params);
        }
        let value = segment(given.next()?).filter(|value| !value.is_empty())?;
        params.0.push((name, value.into_owned()));
    }
    given.next().is_none().then_some(params)
}

/// The verb that a request needs on `nodes`; empty, as upstream's, for HEAD: only a rule for all verbs allows it.
pub fn verb(route: Option<&Route>, method: &str, exec_by_get_asks_get: bool) -> &'static str {
    if !exec_by_get_asks_get && route.is_some_and(|route| route.verb == Verb::Create) {
        return "create";
    }
    match method {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// The label `path` of the request metrics: the first segment, or two under `metrics`.
pub fn metric_path(path: &str) -> &'static str {
    const BUCKETS: &[&str] = &[
        "healthz",
        "pods",
        "stats",
        "metrics",
        "metrics/cadvisor",
        "metrics/probes",
        "metrics/resource",
        "run",
        "exec",
        "attach",
        "portForward",
        "containerLogs",
        "configz",
        "runningpods",
        "checkpoint",
        "flagz",
        "statusz",
        "logs",
        "debug",
    ];
    let path = path.trim_start_matches('/');
    let mut parts = path.splitn(3, '/');
    let first = parts.next().unwrap_or_default();
    let end = match (first, parts.next()) {
        ("metrics", Some(second)) => first.len() + 1 + second.len(),
        _ => first.len(),
    };
    let root = &path[..end];
    BUCKETS.iter().find(|bucket| **bucket == root).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(method: &str, path: &str) -> (Option<Endpoint>, bool, &'static str, &'static [&'static str]) {
        let found = find(path).map(|(route, _)| route);
        let allowed = found.is_some_and(|route| route.methods.contains(&method));
        (found.map(|route| route.endpoint), allowed, verb(found, method, false), subresources(path))
    }

    const PROXY: &[&str] = &["proxy"];

    #[test]
    fn every_route_asks_for_its_subresources() {
        let expected: &[(&str, Endpoint, &[&str], &[&str])] = &[
            ("/healthz", Endpoint::Healthz, ANY, &["healthz", "proxy"]),
            ("/healthz/ping", Endpoint::HealthzCheck, ANY, &["healthz", "proxy"]),
            ("/pods", Endpoint::Pods, GET, &["pods", "proxy"]),
            ("/pods/", Endpoint::Pods, GET, &["pods", "proxy"]),
            ("/stats/summary", Endpoint::StatsSummary, GET_POST, &["stats"]),
            ("/metrics", Endpoint::Metrics, ANY, &["metrics"]),
            ("/metrics/cadvisor", Endpoint::MetricsCadvisor, ANY, &["metrics"]),
            ("/metrics/resource", Endpoint::MetricsResource, ANY, &["metrics"]),
            ("/metrics/probes", Endpoint::MetricsProbes, ANY, &["metrics"]),
            ("/metrics/slis", Endpoint::MetricsSlis, ANY, &["metrics"]),
            ("/runningpods/", Endpoint::RunningPods, GET, &["pods", "proxy"]),
            ("/run/ns/pod/ctr", Endpoint::Run, POST, PROXY),
            ("/run/ns/pod/uid/ctr", Endpoint::Run, POST, PROXY),
            ("/exec/ns/pod/ctr", Endpoint::Exec, GET_POST, PROXY),
            ("/exec/ns/pod/uid/ctr", Endpoint::Exec, GET_POST, PROXY),
            ("/attach/ns/pod/ctr", Endpoint::Attach, GET_POST, PROXY),
            ("/attach/ns/pod/uid/ctr", Endpoint::Attach, GET_POST, PROXY),
            ("/portForward/ns/pod", Endpoint::PortForward, GET_POST, PROXY),
            ("/portForward/ns/pod/uid", Endpoint::PortForward, GET_POST, PROXY),
            ("/containerLogs/ns/pod/ctr", Endpoint::ContainerLogs, GET, PROXY),
            ("/checkpoint/ns/pod/ctr", Endpoint::Checkpoint, POST, &["checkpoint"]),
            ("/configz", Endpoint::Configz, ANY, &["configz", "proxy"]),
            ("/logs/", Endpoint::Logs, GET, &["log"]),
            ("/logs/a/b.log", Endpoint::Logs, GET, &["log"]),
            ("/debug/pprof/", Endpoint::Pprof, GET, PROXY),
            ("/debug/pprof/heap", Endpoint::Pprof, GET, PROXY),
            ("/debug/flags/v", Endpoint::DebugFlags, ANY, PROXY),
            ("/statusz", Endpoint::Statusz, GET, &["statusz"]),
            ("/flagz", Endpoint::Flagz, ANY, &["configz"]),
        ];
        for (path, endpoint, methods, subresources) in expected {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
                let (found, allowed, _, asked) = attributes(method, path);
                assert_eq!(found, Some(*endpoint), "{path}");
                assert_eq!(allowed, methods.contains(&method), "{method} {path}");
                assert_eq!(asked, *subresources, "{path}");
            }
        }
        let covered: std::collections::HashSet<_> = expected.iter().map(|(_, endpoint, ..)| *endpoint).collect();
        assert!(ROUTES.iter().all(|route| covered.contains(&route.endpoint)), "a route without a test");
    }

    #[test]
    fn running_code_needs_create_even_by_get() {
        for path in ["/exec/n/p/c", "/attach/n/p/c", "/portForward/n/p"] {
            assert_eq!(attributes("GET", path).2, "create", "{path}");
            let route = find(path).map(|(route, _)| route);
            assert_eq!(verb(route, "GET", true), "get", "the option of upstream's behaviour");
        }
        assert_eq!(attributes("GET", "/containerLogs/n/p/c").2, "get");
        assert_eq!(attributes("PUT", "/debug/flags/v").2, "update");
        assert_eq!(attributes("HEAD", "/metrics").2, "");
    }

    #[test]
    fn an_unknown_path_asks_for_what_its_first_segment_does() {
        for path in ["/", "", "/nothing", "/exec/a/b", "/exec/a//c", "/../pods", "/metricsx", "//metrics", "/Pods"] {
            assert_eq!(attributes("GET", path), (None, false, "get", PROXY), "{path}");
        }
        let pods: &[&str] = &["pods", "proxy"];
        for path in ["/pods/x", "/pods/../exec/n/p/c"] {
            assert_eq!(attributes("GET", path), (None, false, "get", pods), "{path}");
        }
        assert_eq!(attributes("GET", "/stats/container").3, ["stats"]);
        assert_eq!(attributes("GET", "/metrics/nothing/").3, ["metrics"]);
    }

    #[test]
    fn paths_below_a_debugging_handler_are_known_as_such() {
        for path in ["/exec/default", "/runningpods/", "/logs/a/b", "/debug/pprof/"] {
            assert!(is_debugging(path), "{path}");
        }
        for path in ["/debug/flags/v", "/checkpoint/n/p/c", "/execute", "/configz", "/metrics"] {
            assert!(!is_debugging(path), "{path}");
        }
    }

    #[test]
    fn placeholders_are_decoded_after_the_path_is_split() {
        let (_, params) = find("/exec/ns/my%2Dpod/ctr").unwrap();
        assert_eq!((params.get("pod"), params.get("uid")), ("my-pod", ""));
        assert!(find("/exec/ns/a%2Fb/c").is_none());
    }

    #[test]
    fn only_reads_are_on_the_read_only_port() {
        let open: Vec<_> = ROUTES.iter().filter(|r| r.reach == Reach::Everywhere).map(|r| r.pattern).collect();
        assert!(open.iter().all(|p| p.starts_with("/healthz")
            || p.starts_with("/metrics")
            || *p == "/pods"
            || *p == "/stats/summary"));
    }

    #[test]
    fn metrics_are_counted_by_the_first_segment() {
        assert_eq!(metric_path("/containerLogs/a/b/c"), "containerLogs");
        assert_eq!(metric_path("/metrics/cadvisor"), "metrics/cadvisor");
        assert_eq!(metric_path("/metrics"), "metrics");
        assert_eq!(metric_path("/secret"), "other");
        assert_eq!(metric_path(""), "other");
    }
}
