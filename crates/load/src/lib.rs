//! Generate traffic without lying about latency
