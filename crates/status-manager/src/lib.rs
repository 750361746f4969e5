//! status-manager
