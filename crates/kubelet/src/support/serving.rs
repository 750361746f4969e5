//! Endpoints and known differences for docs/SUPPORT.md.

use super::{
    Support,
    Support::{NotYet, Partly, Works},
};

pub const ENDPOINTS: &[(&str, Support)] = &[
    ("GET /healthz (also 10248)", Works),
    ("GET /pods", Works),
    ("GET /runningpods/", Works),
    ("GET /containerLogs/{ns}/{pod}/{ctr}", Works),
    ("GET, POST /exec/{ns}/{pod}[/{uid}]/{ctr}", Works),
    ("GET, POST /attach/{ns}/{pod}[/{uid}]/{ctr}", Works),
    ("GET, POST /portForward/{ns}/{pod}[/{uid}]", Works),
    ("POST /run/{ns}/{pod}[/{uid}]/{ctr}", Works),
    ("GET /configz", Works),
    (
        "GET /metrics",
        Partly(
            "no series of the Go runtime and of libraries for API servers, of parts that are not there (managers of CPU, memory and topology, DRA, plugins, the rebuilding of what is known of volumes, a cache of pull records), of worker rounds; of pods with user namespaces that fail to start, those whose containers fail are not counted",
        ),
    ),
    ("GET /metrics/cadvisor", Works),
    ("GET /metrics/resource", Works),
    ("GET /metrics/probes", Works),
    ("GET /stats/summary", Partly("volumes that the kubelet fills itself, not yet those of drivers")),
    ("GET /logs/", Works),
    ("GET /logs/?query=", Works),
    ("POST /checkpoint/{ns}/{pod}/{ctr}", Works),
    ("GET /debug/pprof/", NotYet("answers 501, its index 405 to other methods: there is no Go runtime to profile")),
    ("PUT /debug/flags/v", Works),
    ("GET /statusz, GET /flagz", Works),
    ("gRPC pod-resources/kubelet.sock (v1, v1alpha1)", Works),
    ("gRPC pods-api/pods-api.sock (v1alpha1)", Partly("pods come without managedFields")),
    ("gRPC device-plugins/kubelet.sock", NotYet("no device plugins yet")),
];

pub const DIFFERENCES: &[&str] = &[
    "`--version` prints upstream's line on stdout, and ferrolet's own version on stderr, since kubeadm refuses any other text on stdout.",
    "All faults of a configuration are reported together, each as `field (--flag): Invalid value: value: reason`; upstream words them otherwise, and finds some of them (quantities, eviction thresholds, TLS names) only later in its start.",
    "An unknown feature gate in the configuration file is an error; upstream panics.",
    "Unknown fields of drop-in files are named in a warning; upstream says nothing.",
    "YAML is read as YAML 1.2 with `yes`, `no`, `on` and `off` still booleans; octal numbers with a leading 0 are not.",
    "A path that leads nowhere is answered 404 only to who is authenticated and allowed to ask; upstream answers it to anybody.",
    "The server never redirects: `/logs`, `/runningpods` and `/debug/pprof` are answered as with a slash at the end; upstream answers 307, to anybody.",
    "A client that takes nothing of a reply for two minutes (of a log: four hours) loses its connection, and beyond 2048 streams and logs at once more of them are answered 429; upstream gives every reply four hours and counts none.",
    "The runtime's state is asked for every 10 s once it is ready, as often as the node's status is looked at; upstream asks every 5 s.",
    "Exec, attach and port-forward ask for `create` on `nodes/proxy` whatever the method; upstream derives the verb from it, so that there `get nodes/proxy` is enough to run commands by websocket.",
    "One checkpoint is made at a time; another is answered 429 meanwhile. Upstream makes as many as are asked for.",
    "A streaming URL of the runtime with `https` is refused.",
    "A UID in the path of exec and run must be the pod's, else 404, so that no command runs in a pod that took the name of another; upstream ignores it.",
    "With cgroups of version 1, `/stats/summary` shows no pressure (psi); upstream shows zeros.",
    "The times of `container_fs_*_seconds_total` on `/metrics/cadvisor` are in seconds; upstream's are the kernel's milliseconds divided by 10^9.",
    "`/stats/summary` shows the network of each pod also where upstream shows only the node's (seen with cgroups of version 1).",
    "Traces: a span `syncPod`, `syncTerminatingPod` or `syncTerminatedPod` covers what one step of a pod's worker begins, until the last of it has ended; a step that begins nothing has none. There is no `Containers/GarbageCollect`, since dead containers are not removed in rounds; calls have no events for their messages; the environment variables `OTEL_*` are not read, nor is `unix-abstract` an endpoint.",
    "A client that follows the pods API slowly is told the newest state of each pod and goes on; upstream ends its stream.",
    "Help texts are ferrolet's own and shorter.",
    "A shutdown of the machine that is called off spares the pods of the groups whose turn had not come; upstream ends them too. Where logind does not answer at the start, it is asked again; upstream does without.",
    "Requests to the API server are JSON, not protobuf.",
    "Of proxies to the API server (`proxy-url`, HTTPS_PROXY) those that are spoken to by http are used, others (https, socks5) refused at the start.",
    "A damaged `allocated_pods_state` or `actuated_pods_state` is passed over with an error in the log and pods have what their specs say; upstream refuses to start until somebody removes the file.",
    "A step of a pod that is blocked for more than a minute is told in an event `StillWaiting`, and in the otherwise empty message of containers that wait for it; upstream says nothing.",
];
