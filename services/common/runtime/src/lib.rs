//! What every service does the same way: settings, logs, metrics, traces, health, reflection, TLS accept, ordered shutdown
