//! Node streams: usage in, desired state and commands out
