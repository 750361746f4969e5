//! `/statusz` and `/flagz`: for people as text, for programs as an object of the API group `config.k8s.io` in JSON or
//! YAML, whichever `Accept` asks for.

mod accept;

use std::{collections::BTreeMap, fmt::Write as _};

use accept::{Form, Format, Refused};
use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::json;

use crate::{
    dispatch::Context,
    reply::{self, Reply},
};

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
const COMPONENT: &str = "kubelet";
/// The field is there for every component; this one is not written in Go.
const GO_VERSION: &str = "none";
const NOT_ACCEPTABLE: &str =
    "only the following media types are accepted: application/json, application/yaml, text/plain";

/// First segments of the paths that upstream lists: those below which anything is answered.
const PATHS: [&str; 5] = ["/configz", "/debug", "/flagz", "/healthz", "/metrics"];
/// Also listed without the debugging handlers, when they answer that they are off.
const OFF_PATHS: [&str; 7] = ["/attach", "/containerLogs", "/exec", "/logs", "/portForward", "/run", "/runningpods"];

/// What every such object begins with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<T: Serialize> {
    kind: &'static str,
    api_version: String,
    metadata: Metadata,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct Metadata {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    start_time: String,
    uptime_seconds: u64,
    go_version: &'static str,
    binary_version: String,
    emulation_version: String,
    paths: Vec<&'static str>,
}

#[derive(Serialize)]
struct Flags {
    flags: BTreeMap<String, String>,
}

pub fn statusz(context: &Context, head: &Parts) -> Reply {
    let uptime = context.deps.clock.mono().since(context.started);
    let started = context.deps.clock.wall() - SignedDuration::try_from(uptime).unwrap_or(SignedDuration::MAX);
    let mut paths = PATHS.to_vec();
    if !context.config.enable_debugging_handlers {
        paths.extend(OFF_PATHS);
    } else if !context.config.enable_system_log_handler {
        paths.push("/logs");
    }
    paths.sort_unstable();
    let binary_version = context.config.version.trim_start_matches('v').to_owned();
    let emulation_version = binary_version.split('.').take(2).collect::<Vec<_>>().join(".");
    let uptime_seconds = uptime.as_secs();
    let status = Status {
        start_time: started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        uptime_seconds,
        go_version: GO_VERSION,
        binary_version,
        emulation_version,
        paths,
    };
    answer("Statusz", head, status, |status| status_text(status, started))
}

fn status_text(status: &Status, started: Timestamp) -> String {
    let up = status.uptime_seconds;
    format!(
        "\n{COMPONENT} statusz\n{WARNING}\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: {}\nBinary version: \
         {}\nEmulation version: {}\nPaths: {}\n",
        started.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S %Z %Y"),
        up / 3600,
        up / 60 % 60,
        up % 60,
        status.go_version,
        status.binary_version,
        status.emulation_version,
        status.paths.join(" "),
    )
}

pub fn flagz(context: &Context, head: &Parts) -> Reply {
    let flags = Flags { flags: (context.deps.flags)().into_iter().collect() };
    answer("Flagz", head, flags, |Flags { flags }| {
        let mut text = format!("\n{COMPONENT} flagz\n{WARNING}\n");
        for (name, value) in flags {
            let _ = writeln!(text, "{name}={value}");
        }
        text
    })
}

fn answer<T: Serialize>(kind: &'static str, head: &Parts, content: T, text: impl FnOnce(&T) -> String) -> Reply {
    let asked = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let pretty = is_for_people(head);
    match accept::negotiate(asked, kind) {
        Ok(Form::Text) => reply::text(StatusCode::OK, text(&content)),
        Ok(Form::Object { format, version }) => {
            let api_version = format!("config.k8s.io/{version}");
            let object = Object { kind, api_version, metadata: Metadata { name: COMPONENT }, rest: content };
            let parameters = format!(";g=config.k8s.io;v={version};as={kind}");
            let mut reply = structured(StatusCode::OK, format, &parameters, pretty, &object);
            if version == "v1alpha1" {
                let path = head.uri.path().trim_matches('/');
                let text =
                    format!("299 - \"This version of the {path} endpoint is deprecated. Please use a newer version.\"");
                set(&mut reply, header::WARNING, &text);
            }
            reply
        }
        Err(Refused { format }) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": NOT_ACCEPTABLE, "reason": "NotAcceptable", "code": 406});
            structured(StatusCode::NOT_ACCEPTABLE, format, "", pretty, &status)
        }
    }
}

fn structured(status: StatusCode, format: Format, parameters: &str, pretty: bool, object: &impl Serialize) -> Reply {
    let content = match format {
        // By way of a value, whose keys are in order, as in upstream's YAML.
        Format::Yaml => serde_json::to_value(object).ok().and_then(|value| serde_yaml_ng::to_string(&value).ok()),
        Format::Json if pretty => serde_json::to_string_pretty(object).ok(),
        Format::Json => serde_json::to_string(object).ok().map(|text| text + "\n"),
    };
    let Some(content) = content else { return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "cannot be encoded") };
    let mut reply = reply::typed(status, reply::JSON, content);
    set(&mut reply, header::CONTENT_TYPE, &format!("{}{parameters}", format.media_type()));
    reply
}

fn set(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// Browsers and common tools get JSON in lines; `?pretty` says it for any.
fn is_for_people(head: &Parts) -> bool {
    let query = crate::query::Query::parse(head.uri.query());
    if query.first("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name))
}
