//! REST adapter over the contract, the panel's static files
