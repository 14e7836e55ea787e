//! What a service says to its peers: framing into Calls, from capture or from a proxy
