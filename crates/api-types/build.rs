//! Generates Rust from `proto/` with a protoc written in Rust, so that a build needs nothing but cargo.

use std::{fmt::Write as _, fs, path::Path};

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

const FILES: [&str; 9] = [
    "runtime/v1/api.proto",
    "containerd/types.proto",
    "containerd/services.proto",
    "containerd/events.proto",
    "containerd/tasks.proto",
    "kubelet/podresources.v1.proto",
    "kubelet/podresources.v1alpha1.proto",
    "kubelet/pods.v1alpha1.proto",
    "opentelemetry/trace.proto",
];

/// Only its field numbers are wanted: the types are those of k8s-openapi.
const POD: &str = "core/pod.proto";
/// Fields whose own fields JSON has beside the others, without a name for the whole.
const INLINE: [&str; 4] = ["volumeSource", "ephemeralContainerCommon", "handler", "localObjectReference"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs: a build script that was compiled in another checkout may be used again here.
    let root = format!("{}/../../proto", std::env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .build_transport(false)
        // Fakes write only the calls they know; the others answer Unimplemented, as old runtimes do.
        .generate_default_stubs(true)
        // Ordered maps: equal messages print and hash alike, and less code is generated.
        .btree_map(".")
        .disable_comments(["."])
        // Carries passwords: lib.rs writes its Debug by hand.
        .skip_debug(["runtime.v1.AuthConfig"])
        .server_mod_attribute("runtime.v1", FOR_FAKES)
        .server_mod_attribute("containerd.services.events.v1", FOR_FAKES)
        .server_mod_attribute("containerd.services.tasks.v1", FOR_FAKES)
        .server_mod_attribute("opentelemetry.proto.collector.trace.v1", FOR_FAKES)
        .compile_fds(descriptors)?;
    let fields = fields(&DescriptorPool::from_file_descriptor_set(protox::compile([POD], [&root])?)?)?;
    Ok(fs::write(Path::new(&std::env::var("OUT_DIR")?).join("core_fields.rs"), fields)?)
}

const FOR_FAKES: &str = "#[cfg(feature = \"server\")]";

/// The tables of `src/core.rs`, one static a message.
fn fields(pool: &DescriptorPool) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for message in pool.all_messages().filter(|m| !m.is_map_entry() && special(m).is_none()) {
        write!(text, "pub static {}: Message = Message {{ name: {:?}, fields: &[", name_of(&message), message.name())?;
        for field in message.fields() {
            let (json, number) = (field.name(), field.number());
            let (inline, repeated) = (INLINE.contains(&json), field.is_list());
            let kind = if field.is_map() { map(&field) } else { kind(field.kind()) };
            write!(
                text,
                "Field {{ json: {json:?}, number: {number}, inline: {inline}, repeated: {repeated}, kind: {kind} }},"
            )?;
        }
        writeln!(text, "] }};")?;
    }
    Ok(text)
}

fn map(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) => format!("Kind::Map(&{})", kind(entry.map_entry_value_field().kind())),
        other => panic!("a map of {other:?}"),
    }
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Bool => "Kind::Bool".to_owned(),
        Kind::Int32 | Kind::Int64 => "Kind::Int".to_owned(),
        Kind::String => "Kind::Text".to_owned(),
        Kind::Message(message) => {
            special(&message).map_or_else(|| format!("Kind::Message(&{})", name_of(&message)), str::to_owned)
        }
        other => panic!("{POD} has a field of kind {other:?}"),
    }
}

/// Messages that JSON writes as one value.
fn special(message: &MessageDescriptor) -> Option<&'static str> {
    match message.name() {
        "Time" => Some("Kind::Time"),
        "Quantity" => Some("Kind::Quantity"),
        "IntOrString" => Some("Kind::IntOrString"),
        _ => None,
    }
}

/// `PodSpec` becomes `POD_SPEC`.
fn name_of(message: &MessageDescriptor) -> String {
    let mut name = String::new();
    let mut before_is_lower = false;
    for c in message.name().chars() {
        if c.is_uppercase() && before_is_lower {
            name.push('_');
        }
        before_is_lower = c.is_lowercase();
        name.extend(c.to_uppercase());
    }
    name
}
