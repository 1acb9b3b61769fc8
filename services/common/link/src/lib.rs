//! Pure state machines of the node link, both ends, and their simulation
