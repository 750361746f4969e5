//! Generates Rust from `proto/` with a protoc written in Rust, so that a build needs nothing but cargo.

const FILES: [&str; 5] = [
    "runtime/v1/api.proto",
    "containerd/types.proto",
    "containerd/services.proto",
    "containerd/events.proto",
    "containerd/tasks.proto",
];

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
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
