//! The store: paths, versions, selectors, and the changes that requests ask for.

use http::Response;
use serde_json::{Value, json};

use super::{
    Body, Recorded, State,
    answer::{json as answer_json, not_found, status},
    watches::Happening,
};

/// Where an object lives, by its apiVersion, kind and metadata.
pub(super) fn path_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let version = text("/apiVersion");
    let kind = text("/kind").to_lowercase();
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") };
    let name = text("/metadata/name");
    match text("/metadata/namespace") {
        "" => format!("{root}/{plural}/{name}"),
        namespace => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
    }
}

/// Whether a path lies in a collection; a collection without namespace spans all of them.
pub(super) fn collection_of(path: &str, collection: &str) -> bool {
    let own = path.rsplit_once('/').map_or("", |(own, _)| own);
    if own == collection {
        return true;
    }
    let (Some((root, plural)), Some((head, rest))) = (collection.rsplit_once('/'), own.split_once("/namespaces/"))
    else {
        return false;
    };
    head == root && rest.split_once('/').is_some_and(|(_, resource)| resource == plural)
}

/// `a.b=c,d!=e`.
pub(super) fn selected(object: &Value, selector: Option<&String>) -> bool {
    let terms = selector.map(|s| s.split(',')).into_iter().flatten().filter(|term| !term.is_empty());
    let value = |field: &str| {
        let pointer = format!("/{}", field.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    terms.into_iter().all(|term| match term.split_once("!=") {
        Some((field, unwanted)) => value(field) != unwanted,
        None => term.split_once('=').is_some_and(|(field, wanted)| value(field) == wanted),
    })
}

impl State {
    pub(super) fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let before = self.objects.get(path);
        let uid = before.map(|b| b["metadata"]["uid"].clone());
        if object["metadata"]["uid"].is_null() {
            self.made += 1;
            object["metadata"]["uid"] = uid.unwrap_or_else(|| json!(format!("uid-{}", self.made)));
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        self.tell(Happening { version: self.version, kind, path: path.to_owned(), object: object.clone() });
        object
    }

    pub(super) fn remove(&mut self, path: &str) -> Option<Value> {
        let mut object = self.objects.remove(path)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(Happening { version: self.version, kind: "DELETED", path: path.to_owned(), object: object.clone() });
        Some(object)
    }

    pub(super) fn read(&self, request: &Recorded) -> Response<Body> {
        if let Some(object) = self.objects.get(&request.path) {
            return answer_json(200, object);
        }
        if !is_collection_path(&request.path) {
            return not_found(&request.path);
        }
        self.list(request)
    }

    fn list(&self, request: &Recorded) -> Response<Body> {
        let selector = request.query.get("fieldSelector");
        let number = |key: &str| request.query.get(key).and_then(|v| v.parse::<usize>().ok());
        let all = self.objects.iter().filter(|(path, o)| collection_of(path, &request.path) && selected(o, selector));
        let start = number("continue").unwrap_or(0);
        let rest: Vec<&Value> = all.map(|(_, object)| object).skip(start).collect();
        let limit = number("limit").filter(|limit| *limit > 0).unwrap_or(rest.len());
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if rest.len() > limit {
            metadata["continue"] = json!((start + limit).to_string());
        }
        answer_json(200, &json!({"kind": "List", "metadata": metadata, "items": &rest[..rest.len().min(limit)]}))
    }

    pub(super) fn create(&mut self, request: &Recorded) -> Response<Body> {
        let mut object = request.body.clone();
        if object["metadata"]["name"].is_null() {
            self.made += 1;
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or("made-");
            object["metadata"]["name"] = json!(format!("{prefix}{}", self.made));
        }
        let path = format!("{}/{}", request.path, object["metadata"]["name"].as_str().unwrap_or_default());
        if self.objects.contains_key(&path) {
            return status(409, "AlreadyExists", &format!("{path} already exists"));
        }
        // The server gives the UID, whatever the client wrote.
        object["metadata"].as_object_mut().map(|meta| meta.remove("uid"));
        answer_json(201, &self.store(&path, object))
    }

    pub(super) fn change(&mut self, request: &Recorded) -> Response<Body> {
        let path = request.path.strip_suffix("/status").unwrap_or(&request.path);
        let Some(before) = self.objects.get(path) else { return not_found(path) };
        let other = |field: &str| {
            let wanted = &request.body["metadata"][field];
            wanted.is_string() && *wanted != before["metadata"][field]
        };
        if other("uid") {
            return status(422, "Invalid", &format!("{path} is invalid: metadata.uid: field is immutable"));
        }
        if other("resourceVersion") {
            return status(409, "Conflict", &format!("{path}: the object has been modified"));
        }
        let mut after = if request.method == "PUT" { request.body.clone() } else { before.clone() };
        if request.method == "PATCH" {
            merge(&mut after, &request.body);
        }
        answer_json(200, &self.store(path, after))
    }

    pub(super) fn delete(&mut self, request: &Recorded) -> Response<Body> {
        let Some(object) = self.objects.get(&request.path) else { return not_found(&request.path) };
        let wanted = &request.body["preconditions"]["uid"];
        if wanted.is_string() && *wanted != object["metadata"]["uid"] {
            return status(409, "Conflict", "the UID in the precondition is another");
        }
        let at_once = request.body["gracePeriodSeconds"] == json!(0) || object["kind"] != json!("Pod");
        if at_once {
            return answer_json(200, &self.remove(&request.path).unwrap_or_default());
        }
        let mut object = object.clone();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        answer_json(200, &self.store(&request.path, object))
    }
}

/// A collection's path ends with the resource, an object's with a name (or a subresource).
fn is_collection_path(path: &str) -> bool {
    let core = path.strip_prefix("/api/v1/");
    let rest = core.or_else(|| path.strip_prefix("/apis/")?.splitn(3, '/').nth(2)).unwrap_or_default();
    match rest.strip_prefix("namespaces/") {
        Some(inner) if inner.contains('/') => inner.split('/').count() == 2,
        _ => rest.split('/').count() == 1,
    }
}

/// A strategic merge as far as tests need it: lists merge by `type` or `name`, all else as in a merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let (Some(fields), Value::Object(changes)) = (target.as_object_mut(), patch) else {
        *target = patch.clone();
        return;
    };
    for (key, change) in changes.iter().filter(|(key, _)| !key.starts_with('$')) {
        match (fields.get_mut(key), change) {
            (_, Value::Null) => drop(fields.remove(key)),
            (Some(Value::Array(old)), Value::Array(new)) if key_of(new).is_some() => merge_list(old, new),
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, change),
            _ => drop(fields.insert(key.clone(), change.clone())),
        }
    }
}

fn key_of(list: &[Value]) -> Option<&'static str> {
    ["type", "name"].into_iter().find(|key| list.first().is_some_and(|item| item[*key].is_string()))
}

fn merge_list(old: &mut Vec<Value>, new: &[Value]) {
    let Some(key) = key_of(new) else { return };
    for item in new {
        match old.iter_mut().find(|o| o[key] == item[key]) {
            Some(known) => merge(known, item),
            None => old.push(item.clone()),
        }
    }
}
