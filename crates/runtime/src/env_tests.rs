//! Environments, rule by rule.

use super::*;
use crate::fixture::pod;
use serde_json::{Value, json};

struct World {
    env: Value,
    env_from: Value,
    referents: Referents,
    services: Vec<ServiceEnv>,
}

impl World {
    fn new(env: Value, env_from: Value) -> Self {
        let config: ConfigMap = serde_json::from_value(json!({"data": {"color": "red", "shape": "round"}})).unwrap();
        let secret: Secret =
            serde_json::from_value(json!({"data": {"color": "Ymx1ZQ==", "token": "czNjcjN0"}})).unwrap();
        let referents = Referents {
            config_maps: [("cm".to_owned(), Arc::new(config))].into(),
            secrets: [("sec".to_owned(), Arc::new(secret))].into(),
            files: [(
                FileRef { volume: "v".into(), path: "a.env".into() },
                EnvFile { path: "/pods/1/v/a.env".into(), content: "KEY='from file'\n".to_owned() },
            )]
            .into(),
        };
        Self { env, env_from, referents, services: Vec::new() }
    }

    fn get(&self) -> Result<BTreeMap<String, String>, String> {
        let text = |(name, value)| (name, String::from_utf8(value).unwrap());
        self.bytes().map(|e| e.into_iter().map(text).collect())
    }

    fn bytes(&self) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let desired = pod("web", |s| {
            s.containers[0].env = serde_json::from_value(self.env.clone()).unwrap();
            s.containers[0].env_from = serde_json::from_value(self.env_from.clone()).unwrap();
        });
        let ips = ["10.0.0.5".to_owned()];
        let input = EnvInput {
            pod: &desired,
            container: &desired.spec().containers[0],
            referents: &self.referents,
            services: &self.services,
            addresses: Addresses { pod_ips: &ips, host_ips: &[] },
            allocatable: &ApiList::new(),
        };
        environment(&input).map(|e| e.0).map_err(|e| e.to_string())
    }
}

fn env(env: Value) -> Result<BTreeMap<String, String>, String> {
    World::new(env, json!(null)).get()
}

fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_value_may_refer_to_what_was_declared_before_it() {
    let got = env(json!([
        {"name": "A", "value": "a"},
        {"name": "B", "value": "$(A)-$(C)-$$(A)"},
        {"name": "C", "value": "c"},
        {"name": "D"},
    ]));
    assert_eq!(got.unwrap(), pairs(&[("A", "a"), ("B", "a-$(C)-$(A)"), ("C", "c"), ("D", "")]));
}

#[test]
fn env_wins_over_env_from_and_later_env_from_over_earlier() {
    let from = json!([{"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "sec"}, "prefix": ""}, {"prefix": "P_", "configMapRef": {"name": "cm"}}]);
    let got = World::new(json!([{"name": "shape", "value": "square"}]), from).get().unwrap();
    let expected =
        [("color", "blue"), ("shape", "square"), ("token", "s3cr3t"), ("P_color", "red"), ("P_shape", "round")];
    assert_eq!(got, pairs(&expected));
}

#[test]
fn keys_come_from_config_maps_secrets_fields_and_files() {
    let got = env(json!([
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "color"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "D", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "a.env", "key": "KEY"}}},
        {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
    ]));
    let expected = [("A", "red"), ("B", "s3cr3t"), ("C", "10.0.0.5"), ("D", "from file"), ("E", "0")];
    assert_eq!(got.unwrap(), pairs(&expected));
}

#[test]
fn what_is_missing_is_named_unless_it_is_optional() {
    let cases = [
        (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
        (json!({"secretKeyRef": {"name": "no", "key": "k"}}), "secret \"no\" not found"),
        (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "couldn't find key k in ConfigMap ns/cm"),
        (json!({"secretKeyRef": {"name": "sec", "key": "k"}}), "couldn't find key k in Secret ns/sec"),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "a.env", "key": "k"}}),
            "environment variable key \"k\" not found in file \"/pods/1/v/a.env\"",
        ),
    ];
    for (mut source, text) in cases {
        assert_eq!(env(json!([{"name": "X", "valueFrom": source}])), Err(text.to_owned()));
        source.as_object_mut().unwrap().values_mut().for_each(|v| v["optional"] = json!(true));
        assert_eq!(env(json!([{"name": "X", "valueFrom": source}])), Ok(BTreeMap::new()));
    }
    let from = json!([{"secretRef": {"name": "no"}}]);
    assert_eq!(World::new(json!(null), from).get(), Err("secret \"no\" not found".to_owned()));
    let from = json!([{"secretRef": {"name": "no", "optional": true}}]);
    assert_eq!(World::new(json!(null), from).get(), Ok(BTreeMap::new()));
}

#[test]
fn services_fill_in_behind_the_containers_own_variables() {
    let mut world = World::new(
        json!([{"name": "DB_SERVICE_HOST", "value": "me"}, {"name": "P", "value": "$(DB_SERVICE_PORT)"}]),
        json!(null),
    );
    world.services = vec![ServiceEnv {
        name: "db".into(),
        namespace: "ns".into(),
        cluster_ip: "10.9.0.1".into(),
        ports: vec![pod::env::ServicePort { name: None, port: 5432, protocol: "TCP".into() }],
    }];
    let got = world.get().unwrap();
    assert_eq!(
        (got["DB_SERVICE_HOST"].as_str(), got["P"].as_str(), got["DB_SERVICE_PORT"].as_str()),
        ("me", "5432", "5432")
    );
}

#[test]
fn what_a_secret_holds_arrives_byte_by_byte() {
    let env = json!([
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "raw", "key": "key"}}},
        {"name": "TWICE", "value": "$(KEY)$(KEY)"},
    ]);
    let mut world = World::new(env, json!([{"secretRef": {"name": "raw"}}]));
    let secret: Secret = serde_json::from_value(json!({"data": {"key": "/wA="}})).unwrap();
    world.referents.secrets.insert("raw".to_owned(), Arc::new(secret));
    let got = world.bytes().unwrap();
    assert_eq!((&got["key"], &got["KEY"], &got["TWICE"]), (&vec![255, 0], &vec![255, 0], &vec![255, 0, 255, 0]));
    let env = Environment(got);
    assert_eq!((env.expand("$(KEY)"), env.expand("$(NO)")), (None, Some("$(NO)".to_owned())));
}

#[test]
fn values_are_not_printed() {
    let env: Environment = [("PASSWORD", "hunter2")].into_iter().collect();
    assert_eq!(format!("{env:?}"), "{\"PASSWORD\"}");
}
