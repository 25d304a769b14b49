//! data_collector
