//! pod-workers
