//! alert_system
