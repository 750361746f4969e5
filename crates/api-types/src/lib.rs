//! Types and gRPC stubs generated from `proto/`; nothing else. Server halves of what others
//! serve need the feature `server`.

#![allow(clippy::all)] // generated code

pub mod core;

pub use prost_types::Any;

pub mod runtime {
    pub mod v1 {
        tonic::include_proto!("runtime.v1");

        impl std::fmt::Debug for AuthConfig {
            /// Never prints a credential: messages end up in logs.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
            }
        }
    }
}

/// containerd's own services.
pub mod containerd {
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    pub mod services {
        pub mod events {
            pub mod v1 {
                tonic::include_proto!("containerd.services.events.v1");
            }
        }
        pub mod tasks {
            pub mod v1 {
                tonic::include_proto!("containerd.services.tasks.v1");
            }
        }
    }
    pub mod events {
        tonic::include_proto!("containerd.events");
    }
}

/// The services that a kubelet offers on its node: podresources and pods.
pub mod kubelet {
    pub mod v1 {
        tonic::include_proto!("v1");
    }
    pub mod v1alpha1 {
        tonic::include_proto!("v1alpha1");
    }
}

/// What a collector of traces is told.
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}
