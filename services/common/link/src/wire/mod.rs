//! Between the typed vocabulary and the messages of `vpnpanel.agent.v1`. Receivers expect all
//! sorts of junk: every conversion from the wire can fail, and says which field was wrong.
