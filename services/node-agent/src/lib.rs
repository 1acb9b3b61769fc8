//! Runs on the edge: engines, durable spool, its own gRPC server
