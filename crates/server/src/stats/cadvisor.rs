//! `/metrics/cadvisor`: the series of cAdvisor that come from cgroup files alone.

use std::{collections::HashMap, time::UNIX_EPOCH};

use cgroups::{Cgroups, MemoryUsage, Pressure, Usage, Who};
use host::MachineFacts;
use pod::{SandboxId, time::Timestamp};

use super::{
    cadvisor_details::{self, Extra},
    exposition::{Point, Text},
    machine::Machine,
    network::{Interface, Traffic},
    sample::Sample,
    sandbox_images::Images,
};

pub(super) const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];
const CPU_LABELS: [&str; 7] = ["container", "cpu", "id", "image", "name", "namespace", "pod"];
const NETWORK_LABELS: [&str; 7] = ["container", "id", "image", "interface", "name", "namespace", "pod"];
const MACHINE_LABELS: [&str; 3] = ["boot_id", "machine_id", "system_uuid"];

/// One cgroup with the labels that name it.
pub struct Group<'a> {
    pub labels: [&'a str; 6],
    pub usage: &'a Usage,
    pub started: Option<Timestamp>,
    pub network: &'a [Interface],
}

/// Cgroups that only this page shows.
#[derive(Default)]
pub struct Beside {
    /// Of the QoS classes, by path.
    classes: Vec<(String, Usage)>,
    sandboxes: HashMap<SandboxId, Usage>,
    images: Images,
}

impl Beside {
    pub fn read(cgroups: &Cgroups, sample: &Sample, images: Images) -> Self {
        let usage = |path: &str| cgroups.usage(Who::Path(path)).ok();
        let classes = cgroups.class_paths().into_iter().filter_map(|path| Some((usage(&path)?, path)));
        let sandboxes = sample.pods.iter().filter_map(|pod| pod.sandbox.as_ref());
        Self {
            classes: classes.map(|(usage, path)| (path, usage)).collect(),
            sandboxes: sandboxes.filter_map(|one| Some((one.id.clone(), usage(&one.path)?))).collect(),
            images,
        }
    }
}

/// `groups` in the order of the details.
pub fn render(sample: &Sample, groups: &[Group<'_>], extra: &Extra, facts: &MachineFacts) -> String {
    let at = sample.at.as_millisecond();
    let mut text = Text::default();
    cadvisor_details::version(&mut text, facts);
    cpu(&mut text, groups, at);
    start_times(&mut text, groups, extra);
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Group<'_>) -> Option<f64>| {
        // What does not change by being used has no time, as upstream.
        let fixed = name.starts_with("container_spec_");
        let at = (!fixed).then_some(at);
        let points = groups.iter().filter_map(|group| Some(Point { labels: group.labels, value: value(group)?, at }));
        text.family(name, kind, help, LABELS, points);
    };
    family("container_last_seen", "gauge", "Last time this container was seen by the exporter", &|_| {
        Some(sample.at.as_second() as f64)
    });
    for (name, help, value) in CPU {
        family(name, "counter", help, &|group| value(group.usage));
    }
    for (name, kind, help, value) in MEMORY {
        family(name, kind, help, &|group| group.usage.memory.as_ref().and_then(value));
    }
    for (resource, of) in PRESSURE {
        let help = format!("Total time duration tasks in the container have waited due to {resource} congestion.");
        let name = format!("container_pressure_{resource}_waiting_seconds_total");
        family(&name, "counter", &help, &|group| of(group.usage).map(|pressure| pressure.some.total as f64 / 1e6));
        let help =
            format!("Total time duration no tasks in the container could make progress due to {resource} congestion.");
        let name = format!("container_pressure_{resource}_stalled_seconds_total");
        family(&name, "counter", &help, &|group| of(group.usage).map(|pressure| pressure.full.total as f64 / 1e6));
    }
    cadvisor_details::render(&mut text, groups, extra, at);
    network(&mut text, groups, at);
    machine(&mut text, &sample.machine);
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    text.family("container_scrape_error", "gauge", help, [], [Point { labels: [], value: 0.0, at: None }]);
    text.finish()
}

pub fn groups<'a>(sample: &'a Sample, beside: &'a Beside) -> Vec<Group<'a>> {
    let own = |path, usage| Group { labels: ["", path, "", "", "", ""], usage, started: None, network: &[] };
    let node = Group { network: &sample.network, ..own("/", &sample.node) };
    let mut groups = vec![node, own(sample.kubepods_path.as_str(), &sample.all_pods)];
    groups.extend(beside.classes.iter().map(|(path, usage)| own(path.as_str(), usage)));
    for system in &sample.systems {
        // An agent that was started by hand may be in any group.
        if groups.iter().all(|group| group.labels[1] != system.path) {
            groups.push(own(system.path.as_str(), &system.usage));
        }
    }
    for pod in &sample.pods {
        let (namespace, name) = (&*pod.key.namespace, &*pod.key.name);
        let sandbox = pod.sandbox.as_ref().and_then(|sandbox| Some((sandbox, beside.sandboxes.get(&sandbox.id)?)));
        groups.push(Group {
            labels: ["", &pod.path, "", "", namespace, name],
            usage: &pod.usage,
            started: None,
            network: if sandbox.is_some() { &[] } else { &pod.network },
        });
        // The network is the sandbox's, where it has a cgroup.
        groups.extend(sandbox.map(|(sandbox, usage)| Group {
            labels: [
                "",
                &sandbox.path,
                beside.images.get(&sandbox.id).map_or("", |image| image),
                sandbox.id.as_str(),
                namespace,
                name,
            ],
            usage,
            started: Some(sandbox.started),
            network: &pod.network,
        }));
        groups.extend(pod.containers.iter().map(|container| Group {
            labels: [&container.name, &container.path, &container.image, &container.id, namespace, name],
            usage: &container.usage,
            started: container.started,
            network: &[],
        }));
    }
    groups
}

/// Of a cgroup that is no container's, the time at which it was made.
fn start_times(text: &mut Text, groups: &[Group<'_>], extra: &Extra) {
    let points = groups.iter().enumerate().filter_map(|(index, group)| {
        let made = || extra.details.get(index)?.created?.duration_since(UNIX_EPOCH).ok();
        let value = match group.started {
            Some(started) => started.as_second() as f64,
            None => made()?.as_secs() as f64,
        };
        Some(Point { labels: group.labels, value, at: None })
    });
    let help = "Start time of the container since unix epoch in seconds.";
    text.family("container_start_time_seconds", "gauge", help, LABELS, points);
}

fn cpu(text: &mut Text, groups: &[Group<'_>], at: i64) {
    let points = groups.iter().filter_map(|group| {
        let [container, id, image, name, namespace, pod] = group.labels;
        let labels = [container, "total", id, image, name, namespace, pod];
        Some(Point { labels, value: group.usage.cpu_ns? as f64 / 1e9, at: Some(at) })
    });
    let help = "Cumulative cpu time consumed in seconds.";
    text.family("container_cpu_usage_seconds_total", "counter", help, CPU_LABELS, points);
}

type OfTraffic = fn(&Traffic) -> u64;

const TRAFFIC: [(&str, &str, OfTraffic); 4] = [
    ("bytes_total", "bytes", |traffic| traffic.bytes),
    ("errors_total", "errors", |traffic| traffic.errors),
    ("packets_dropped_total", "packets dropped", |traffic| traffic.dropped),
    ("packets_total", "packets", |traffic| traffic.packets),
];

fn network(text: &mut Text, groups: &[Group<'_>], at: i64) {
    let mut direction = |word: &str, doing: &str, of: fn(&Interface) -> &Traffic| {
        for (name, what, value) in TRAFFIC {
            let points = groups.iter().flat_map(|group| {
                let [container, id, image, name, namespace, pod] = group.labels;
                group.network.iter().map(move |interface| {
                    let labels = [container, id, image, &interface.name, name, namespace, pod];
                    Point { labels, value: value(of(interface)) as f64, at: Some(at) }
                })
            });
            let (name, help) =
                (format!("container_network_{word}_{name}"), format!("Cumulative count of {what} {doing}"));
            text.family(&name, "counter", &help, NETWORK_LABELS, points);
        }
    };
    direction("receive", "received", |interface| &interface.received);
    direction("transmit", "transmitted", |interface| &interface.sent);
}

type OfCpu = fn(&Usage) -> Option<f64>;

const CPU: [(&str, &str, OfCpu); 7] = [
    ("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |usage| {
        Some(usage.cpu_user_ns? as f64 / 1e9)
    }),
    ("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |usage| {
        Some(usage.cpu_system_ns? as f64 / 1e9)
    }),
    ("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |usage| {
        Some(usage.throttling?.periods as f64)
    }),
    ("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |usage| {
        Some(usage.throttling?.throttled_periods as f64)
    }),
    ("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", |usage| {
        Some(usage.throttling?.throttled_ns as f64 / 1e9)
    }),
    ("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.", |usage| {
        Some(usage.throttling?.burst_periods as f64)
    }),
    ("container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted.", |usage| {
        Some(usage.throttling?.burst_ns as f64 / 1e9)
    }),
];

type OfMemory = fn(&MemoryUsage) -> Option<f64>;
type OfUsage = fn(&Usage) -> Option<&Pressure>;

const MEMORY: [(&str, &str, &str, OfMemory); 6] = [
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |m| Some(m.cache as f64)),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |m| Some(m.rss as f64)),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |m| Some(m.swap as f64)),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |m| Some(m.usage as f64),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |m| Some(m.working_set as f64)),
    // Zero means no limit.
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |m| {
        Some(m.limit.unwrap_or_default() as f64)
    }),
];

const PRESSURE: [(&str, OfUsage); 3] = [
    ("cpu", |usage| usage.cpu_pressure.as_ref()),
    ("memory", |usage| usage.memory_pressure.as_ref()),
    ("io", |usage| usage.io_pressure.as_ref()),
];

fn machine(text: &mut Text, machine: &Machine) {
    let labels = [&*machine.boot_id, &*machine.machine_id, &*machine.system_uuid];
    let point = |value: f64| [Point { labels, value, at: None }];
    let mut family = |name, help, value| text.family(name, "gauge", help, MACHINE_LABELS, point(value));
    family("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus as f64);
    family("machine_cpu_physical_cores", "Number of physical CPU cores.", machine.physical_cores as f64);
    family("machine_cpu_sockets", "Number of CPU sockets.", machine.sockets as f64);
    // Of mainframes.
    family("machine_cpu_books", "Number of CPU books.", 0.0);
    family("machine_cpu_drawers", "Number of CPU drawers.", 0.0);
    family("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory_bytes as f64);
    family("machine_swap_bytes", "Amount of swap memory available on the machine.", machine.swap_bytes as f64);
    let none = [Point { labels: [], value: 0.0, at: None }];
    let help = "1 if there was an error while getting machine metrics, 0 otherwise.";
    text.family("machine_scrape_error", "gauge", help, [], none);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::sample::{PodSample, SandboxSample, System},
        *,
    };

    fn pod(name: &str, sandbox: Option<SandboxSample>) -> PodSample {
        PodSample {
            uid: name.into(),
            shown_uid: name.into(),
            key: pod::PodKey::new("ns", name),
            started: None,
            path: format!("/kubepods/pod{name}"),
            usage: Usage::default(),
            network: vec![Interface { name: "eth0".to_owned(), ..Interface::default() }],
            sandbox,
            containers: Vec::new(),
        }
    }

    #[test]
    fn classes_and_sandboxes_are_shown_and_the_network_is_the_sandboxes() {
        let started = Timestamp::from_second(5).unwrap();
        let sandbox = SandboxSample { id: "s1".into(), path: "/kubepods/poda/s1".to_owned(), started };
        let system =
            |path: &str| System { name: "kubelet", path: path.to_owned(), since: None, usage: Usage::default() };
        let sample = Sample {
            at: Timestamp::from_second(100).unwrap(),
            mono: pod::Mono(Duration::from_secs(50)),
            machine: Machine::default(),
            node: Usage::default(),
            network: Vec::new(),
            all_pods: Usage::default(),
            all_pods_since: None,
            kubepods_path: "/kubepods".to_owned(),
            systems: vec![system("/agent"), system("/")],
            pods: vec![pod("a", Some(sandbox)), pod("b", None)],
        };
        let beside = Beside {
            classes: vec![("/kubepods/burstable".to_owned(), Usage::default())],
            sandboxes: HashMap::from([("s1".into(), Usage::default())]),
            images: HashMap::from([("s1".into(), "pause".into())]),
        };
        let groups = groups(&sample, &beside);
        let shown: Vec<_> = groups.iter().map(|group| (group.labels, group.network.len())).collect();
        let own = |path| (["", path, "", "", "", ""], 0);
        let expected = [
            own("/"),
            own("/kubepods"),
            own("/kubepods/burstable"),
            own("/agent"),
            (["", "/kubepods/poda", "", "", "ns", "a"], 0),
            (["", "/kubepods/poda/s1", "pause", "s1", "ns", "a"], 1),
            (["", "/kubepods/podb", "", "", "ns", "b"], 1),
        ];
        assert_eq!(shown, expected);
        let text = render(&sample, &groups, &Extra::default(), &MachineFacts::read());
        let start = "container_start_time_seconds{container=\"\",id=\"/kubepods/poda/s1\",image=\"pause\",name=\"s1\",\
                     namespace=\"ns\",pod=\"a\"} 5\n";
        assert!(text.contains(start), "{text}");
    }
}
