//! pod-source
