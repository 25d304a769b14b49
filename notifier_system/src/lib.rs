//! notifier_system
